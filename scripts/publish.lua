-- For wrk: each request publishes one event with an id of its own.
--   wrk -t2 -c64 -d10s -s scripts/publish.lua http://127.0.0.1:8080/v1/events
local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  math.randomseed(os.time() * 100 + number)
  mark = string.format("wrk-%d-%08x-", number, math.random(0, 0x7fffffff))
  count = 0
end

function request()
  count = count + 1
  local id = mark .. count
  local body = string.format('{"metadata":{"eventId":"%s","eventType":"patient.enrolled","eventSource":"wrk","correlationId":"%s",' ..
    '"timestamp":%d000,"version":"1.0.0"},"payload":{"patientId":"P%d","enrollmentId":"%s","program":{"name":"Adherence"}}}',
    id, id, os.time(), count % 1000, id)
  return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
end

local refused = 0
function response(status)
  if status ~= 201 then refused = refused + 1 end
end

function done(summary, latency)
  io.write(string.format("published %.0f/s, median %.0f us, p99 %.0f us, answers that are no 2xx: %d\n",
    summary.requests / (summary.duration / 1e6), latency:percentile(50), latency:percentile(99), summary.errors.status))
end
