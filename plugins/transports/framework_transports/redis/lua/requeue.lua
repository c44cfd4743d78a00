-- Puts leased messages back to the front of their queue.
-- KEYS: the consumer's lease hash, the queue's lists. ARGV: field, new payload ('': unchanged), ...; the last one is served first.
-- Returns how many were still leased.
local count = 0
for index = 1, #ARGV, 2 do
  local field = ARGV[index]
  local payload = redis.call('HGET', KEYS[1], field)
  if payload then
    redis.call('HDEL', KEYS[1], field)
    if ARGV[index + 1] ~= '' then
      payload = ARGV[index + 1]
    end
    local list = tonumber(string.match(field, ':(%d+)$'))
    redis.call('RPUSH', KEYS[list + 2], payload)
    count = count + 1
  end
end
return count
