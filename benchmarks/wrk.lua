-- For wrk: posts BODY, or asks for TARGETS different targets in turn with the HEADERS given (a line each), where these
-- stand in the environment, and in the end prints one line of figures:
-- requests, microseconds, bytes received, 50 % and 99 % within (µs), and errors: connecting, reading, writing, status, timeouts.

function init()
  local body = os.getenv("BODY")
  if body then
    wrk.method = "POST"
    wrk.body = body
  end
  local targets = tonumber(os.getenv("TARGETS") or 0)
  if targets > 0 then
    local headers = {}
    for name, value in string.gmatch(os.getenv("HEADERS"), "([^\n:]+): ([^\n]+)") do
      headers[name] = value
    end
    local requests, last = {}, 0
    for number = 1, targets do
      requests[number] = wrk.format("GET", "/items?page=" .. number, headers)
    end
    request = function()
      last = last % targets + 1
      return requests[last]
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("told %d %d %d %d %d %d %d %d %d %d\n", summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
