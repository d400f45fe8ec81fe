-- wrk's requests, in turn: small ones, a stream, an upload, and one after which the connection ends.
local body = string.rep("u", 50000)
local turn = 0

request = function()
  turn = turn + 1
  if turn % 50 == 0 then
    return wrk.format("GET", "/", { ["Connection"] = "close" })
  elseif turn % 10 == 0 then
    return wrk.format("GET", "/stream")
  elseif turn % 5 == 0 then
    return wrk.format("POST", "/upload", nil, body)
  end
  return wrk.format("GET", "/")
end
