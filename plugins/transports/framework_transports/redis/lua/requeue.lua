-- Puts messages that are on loan back to the front of their queue, as they are.
-- KEYS: the consumer's lease hash, the queue's lists. ARGV: fields of the hash; the last one is served first.
-- Returns how many were still on loan.
local count = 0
for _, field in ipairs(ARGV) do
  local payload = redis.call('HGET', KEYS[1], field)
  if payload then
    redis.call('HDEL', KEYS[1], field)
    local list = tonumber(string.match(field, ':(%d+)$'))
    redis.call('RPUSH', KEYS[list + 2], payload)
    count = count + 1
  end
end
return count
