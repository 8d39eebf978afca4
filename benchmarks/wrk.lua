-- For wrk: posts BODY, if there is one in the environment, and in the end prints one line of figures:
-- requests, microseconds, bytes received, 50 % and 99 % within (µs), and errors: connecting, reading, writing, status, timeouts.

function init()
  local body = os.getenv("BODY")
  if body then
    wrk.method = "POST"
    wrk.body = body
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("told %d %d %d %d %d %d %d %d %d %d\n", summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
