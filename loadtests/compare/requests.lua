-- wrk -s requests.lua URL -- FILE…: sends the requests in these files, whole as they are, one after the other.
local requests = {}
local sent = 0

function init(paths)
  for i, path in ipairs(paths) do
    local file = assert(io.open(path, "rb"))
    requests[i] = file:read("*a")
    file:close()
  end
end

function request()
  sent = sent + 1
  return requests[sent % #requests + 1]
end

-- One line for the program that started wrk: counts, and microseconds.
function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    "RESULT requests=%d microseconds=%d p50=%d p99=%d connect=%d read=%d write=%d status=%d timeout=%d",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
