"""What Redis does for a worker, each in one atomic step: Lua scripts, and the keys that they use.

For a layer with the prefix ``asgi``, the messages of a channel are in the sorted set ``asgi<channel>``, by the time at
which they were sent. Beside it there are, in keys that no channel and no group can have:

- ``asgi:cyasgi:workers``, a sorted set of the ids of workers by the time until which each is alive;
- ``asgi:cyasgi:worker:<id>``, a hash from each channel of a worker to how many messages of it were taken, from
  ``<channel>:claimed`` to how many it has claimed, from ``:begun`` to how many its applications have in hand, and from
  ``:returned`` to how many it has given back that they had not received;
- ``asgi:cyasgi:held:<id>:<channel>``, a list of the messages that this worker has fetched and not taken, each after its
  score, oldest first;
- ``asgi:cyasgi:gone:<id>``, a hash that tells a worker that another one has taken over its messages, with what the
  worker's hash had as ``:returned`` and as ``<channel>:claimed``;
- ``asgi:cyasgi:refused:<channel>``, a list of the last messages that could not be given to any application.

The messages of a channel that a worker has fetched are numbered from 0. A worker says up to which number they were
taken: said twice, because the answer was lost, it does no harm. And it *claims* messages before it gives them to an
application, so that nobody else ever will: when it is dead, those that it has claimed are not put back. What it
returns is numbered, too, and so returned once.
"""

from __future__ import annotations

#: Messages that could not be given to any application: how many are kept, and for how many seconds.
REFUSED_KEPT = 100
REFUSED_SECONDS = 86_400
#: Seconds for which a worker can learn that its messages were taken over.
GONE_SECONDS = 86_400
#: Messages that a script looks at in one go: Redis copies them, however large they are.
CHUNK = 20
#: Messages that one call puts back, at most.
PUT_BACK_AT_ONCE = 500

#: Time, and what is common to scripts about the held messages of a worker.
_COMMON = """
local function seconds()
    local time = redis.call('TIME')
    return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- Forget the held messages before this number: they were taken. Return the number of the first one that is left.
local function forget(heads, channel, held, upto)
    local head = tonumber(redis.call('HGET', heads, channel)) or 0
    if upto > head then
        redis.call('LTRIM', held, 2 * (upto - head), -1)
        redis.call('HSET', heads, channel, upto)
        head = upto
    end
    return head
end

local function claimed_of(heads, channel)
    return tonumber(redis.call('HGET', heads, channel .. ':claimed')) or 0
end

local function returned_of(heads)
    return tonumber(redis.call('HGET', heads, ':returned')) or 0
end

-- Hold nothing of a channel any more. The messages before this number are the worker's alone: nobody puts them back.
local function hold_nothing(heads, channel, held, upto)
    redis.call('DEL', held)
    redis.call('HSET', heads, channel, upto, channel .. ':claimed', upto)
end

-- Return whether a worker has to enter again, since others have taken over its messages, or Redis has lost them.
local function unknown(workers, gone, worker)
    return redis.call('EXISTS', gone) == 1 or not redis.call('ZSCORE', workers, worker)
end

-- Put up to `most` of the youngest held messages back into their channel; return how many these were.
local function put_back(queue, held, most, expiry)
    local pairs_back = redis.call('LRANGE', held, -2 * most, -1)
    for index = 1, #pairs_back, 2 do
        redis.call('ZADD', queue, pairs_back[index], pairs_back[index + 1])
    end
    if #pairs_back > 0 then
        redis.call('LTRIM', held, 0, -#pairs_back - 1)
        redis.call('EXPIRE', queue, expiry)
    end
    return #pairs_back / 2
end
"""

#: KEYS: workers, gone, heads, then for each channel: queue, held. ARGV: id, seconds to live, seconds for which what
#: became of it is known for certain, the time at which it was known last (0 if it is new), seconds until messages
#: expire, then for each channel: its name, the number before which all have come.
#: Returns 0 if the worker is new, or Redis has lost all of it; 1 if it was known; 2 if its messages were taken over,
#: and it has to go on under another id; then how many messages it had returned, -1 if that is not known; the time; and
#: with 2, unless that is not known, for each channel how many messages it had claimed, and so were not put back.
#: With 0, nothing is held for it from now on: what has come is left to it, even if it is taken over before it learns of
#: that, and what has not come is put back.
ENTER = (
    _COMMON
    + """
local now = seconds()
if redis.call('EXISTS', KEYS[2]) == 1 then
    local answer = {2, returned_of(KEYS[2]), tostring(now)}
    for index = 6, #ARGV, 2 do
        answer[#answer + 1] = claimed_of(KEYS[2], ARGV[index])
    end
    return answer
end
local known = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
if known == 0 then
    local last = tonumber(ARGV[4])
    if last > 0 and now - last > tonumber(ARGV[3]) then
        -- Whether it was taken over is forgotten by now: it must be assumed.
        return {2, -1, tostring(now)}
    end
    for number = 1, (#KEYS - 3) / 2 do
        local queue, held = KEYS[2 * number + 2], KEYS[2 * number + 3]
        local head = tonumber(redis.call('HGET', KEYS[3], ARGV[2 * number + 4])) or 0
        local rest = redis.call('LLEN', held) / 2 - (tonumber(ARGV[2 * number + 5]) - head)
        if rest > 0 then
            put_back(queue, held, rest, ARGV[5])
        end
    end
    redis.call('DEL', KEYS[3])
    for number = 1, (#KEYS - 3) / 2 do
        hold_nothing(KEYS[3], ARGV[2 * number + 4], KEYS[2 * number + 3], tonumber(ARGV[2 * number + 5]))
    end
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return {known, returned_of(KEYS[3]), tostring(now)}
"""
)

#: KEYS: workers, gone, heads, then for each channel: held. ARGV: id, then for each channel: its name, the number before
#: which all were taken, the number before which all have come.
#: Returns false if the worker has to enter again; else, packed, for each channel: how many are claimed, and what is
#: held, each message after its score. If Redis has lost some of what has come, all of that is left to the worker, and
#: nothing is held.
RESUME = (
    _COMMON
    + """
if unknown(KEYS[1], KEYS[2], ARGV[1]) then
    return false
end
local answers = {}
for number = 1, #KEYS - 3 do
    local channel, held, come = ARGV[3 * number - 1], KEYS[number + 3], tonumber(ARGV[3 * number + 1])
    local head = forget(KEYS[3], channel, held, tonumber(ARGV[3 * number]))
    if head + redis.call('LLEN', held) / 2 < come then
        hold_nothing(KEYS[3], channel, held, come)
    end
    local answer = redis.call('LRANGE', held, 0, -1)
    table.insert(answer, 1, claimed_of(KEYS[3], channel))
    answers[number] = answer
end
return cmsgpack.pack(answers)
"""
)

#: KEYS: workers, gone, heads, then for each channel: queue, held, refused. ARGV: id, seconds to live, bytes, the most
#: bytes of a message, how many messages are in hand, then for each channel: its name, the number before which all were
#: taken, the number before which all are claimed, how many are wanted, how many of these are claimed at once.
#: Returns false if the worker has to enter again; else, packed, for each channel: whether there are more (0 or 1), how
#: many were too large, how many are claimed, and the messages, each after its score. All of them together have at most
#: so many bytes, unless there is but one.
STEP = (
    _COMMON
    + f"""
if unknown(KEYS[1], KEYS[2], ARGV[1]) then
    return false
end
redis.call('ZADD', KEYS[1], 'XX', seconds() + ARGV[2], ARGV[1])
local budget, largest = tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('HSET', KEYS[3], ':begun', ARGV[5])
local none = true
local answers = {{}}
for number = 1, (#KEYS - 3) / 3 do
    local queue, held, refused = KEYS[3 * number + 1], KEYS[3 * number + 2], KEYS[3 * number + 3]
    local first = 5 * number
    local channel, wanted, begin = ARGV[first + 1], tonumber(ARGV[first + 4]), tonumber(ARGV[first + 5])
    local known = claimed_of(KEYS[3], channel)
    local claimed = math.max(known, tonumber(ARGV[first + 3]))
    local next_one = forget(KEYS[3], channel, held, tonumber(ARGV[first + 2])) + redis.call('LLEN', held) / 2
    local answer = {{0, 0, 0}}
    while wanted > 0 do
        local found = redis.call('ZRANGE', queue, 0, math.min(wanted, {CHUNK}) - 1, 'WITHSCORES')
        local fetched = {{}}
        local seen = 0
        for index = 1, #found, 2 do
            local message = found[index]
            if #message > largest then
                answer[2] = answer[2] + 1
                redis.call('RPUSH', refused, message)
                redis.call('LTRIM', refused, {-REFUSED_KEPT}, -1)
                redis.call('EXPIRE', refused, {REFUSED_SECONDS})
            elseif none or #message <= budget then
                none = false
                budget = budget - #message
                fetched[#fetched + 1] = found[index + 1]
                fetched[#fetched + 1] = message
                answer[#answer + 1] = found[index + 1]
                answer[#answer + 1] = message
                wanted = wanted - 1
                if begin > 0 then
                    begin = begin - 1
                    claimed = math.max(claimed, next_one + 1)
                end
                next_one = next_one + 1
            else
                wanted = 0
                break
            end
            seen = seen + 1
        end
        if #fetched > 0 then
            redis.call('RPUSH', held, unpack(fetched))
        end
        if seen > 0 then
            redis.call('ZREMRANGEBYRANK', queue, 0, seen - 1)
        end
        if seen < {CHUNK} then
            wanted = 0
        end
    end
    if claimed > known then
        redis.call('HSET', KEYS[3], channel .. ':claimed', claimed)
    end
    answer[3] = claimed
    -- Read last, so that Redis tells when this has changed.
    answer[1] = redis.call('EXISTS', queue)
    answers[number] = answer
end
return cmsgpack.pack(answers)
"""
)

#: KEYS: workers, gone, heads, then for each channel: queue, held. ARGV: id, seconds until messages expire, how many
#: messages are in hand, then for each channel: its name, the number before which all were taken. Puts back the rest,
#: and returns how many these were; false if the worker has to enter again.
PUT_BACK = (
    _COMMON
    + """
if unknown(KEYS[1], KEYS[2], ARGV[1]) then
    return false
end
local count = 0
redis.call('HSET', KEYS[3], ':begun', ARGV[3])
for number = 1, (#KEYS - 3) / 2 do
    local queue, held = KEYS[2 * number + 2], KEYS[2 * number + 3]
    local channel = ARGV[2 * number + 2]
    local head = forget(KEYS[3], channel, held, tonumber(ARGV[2 * number + 3]))
    redis.call('HSET', KEYS[3], channel .. ':claimed', head)
    count = count + put_back(queue, held, 1000000, ARGV[2])
end
return count
"""
)

#: KEYS: workers, gone, heads, then for each message: queue. ARGV: id, seconds until messages expire, how many were
#: returned before these, then for each message: its score, and the message. Puts back those that were not yet, and
#: returns 1; false if the worker has to enter again.
RETURN = (
    _COMMON
    + """
if unknown(KEYS[1], KEYS[2], ARGV[1]) then
    return false
end
local before, known = tonumber(ARGV[3]), returned_of(KEYS[3])
for number = 1, #KEYS - 3 do
    if before + number > known then
        redis.call('ZADD', KEYS[number + 3], ARGV[2 * number + 2], ARGV[2 * number + 3])
        redis.call('EXPIRE', KEYS[number + 3], ARGV[2])
    end
end
redis.call('HSET', KEYS[3], ':returned', math.max(known, before + #KEYS - 3))
return 1
"""
)

#: KEYS: workers, heads. ARGV: id. Forgets a worker that holds nothing.
LEAVE = """
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('DEL', KEYS[2])
"""

#: KEYS: workers. ARGV: prefix of channels, prefix of our keys, seconds until messages expire, messages at once, seconds
#: for which the dead worker can learn of it.
#: Puts back what the worker that is dead for longest holds and has not claimed; returns its id, how many messages these
#: were, 1 if that was all, and then how many it had claimed and not finished; an empty id if nobody is dead; and the
#: time. These keys are named after what only Redis knows.
RECOVER = (
    _COMMON
    + """
local now = seconds()
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
if not dead then
    return {'', 0, 1, 0, tostring(now)}
end
local heads = ARGV[2] .. 'worker:' .. dead
local gone = ARGV[2] .. 'gone:' .. dead
redis.call('HSET', gone, ':returned', returned_of(heads))
-- Of all channels at once: it may come back before the last of them is put back.
for _, field in ipairs(redis.call('HKEYS', heads)) do
    if string.sub(field, -8) == ':claimed' then
        redis.call('HSET', gone, field, redis.call('HGET', heads, field))
    end
end
redis.call('PEXPIRE', gone, math.floor(1000 * ARGV[5]))
local count, most = 0, tonumber(ARGV[4])
for _, channel in ipairs(redis.call('HKEYS', heads)) do
    if not string.find(channel, ':', 1, true) then
        local held = ARGV[2] .. 'held:' .. dead .. ':' .. channel
        local head = tonumber(redis.call('HGET', heads, channel))
        local claimed = claimed_of(heads, channel)
        if claimed > head then
            forget(heads, channel, held, claimed)
            redis.call('HINCRBY', heads, ':begun', claimed - head)
        end
        count = count + put_back(ARGV[1] .. channel, held, most - count, ARGV[3])
        if count >= most then
            return {dead, count, 0, 0, tostring(now)}
        end
    end
end
local begun = tonumber(redis.call('HGET', heads, ':begun')) or 0
redis.call('DEL', heads)
redis.call('ZREM', KEYS[1], dead)
return {dead, count, 1, begun, tostring(now)}
"""
)
