-- Moves due parked messages to the front of their queues, at most ARGV[2] of each queue.
-- KEYS, for each queue: its set of parked messages, their hash, its lists in the order of priority. ARGV: lists per queue, limit.
-- Returns how many were moved, and the ms until the next one is due (0: now; -1: nothing is parked).
local width = ARGV[1] + 2
local now = server_time()
local count, wait = 0, -1
for base = 1, #KEYS, width do
  local due = redis.call('ZRANGEBYSCORE', KEYS[base], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[2])
  if #due > 0 then
    -- Makes a full server accept the writes below: see reserve.lua.
    redis.call('ZREM', KEYS[base], '')
    local values = redis.call('HMGET', KEYS[base + 1], unpack(due))
    -- The first one due is pushed last, so that it is served first.
    for index = #due, 1, -1 do
      if values[index] then
        local list, payload = string.match(values[index], '^(%d+):(.*)$')
        -- A worker with more priority steps may have parked it: the lowest list here takes it.
        redis.call('RPUSH', KEYS[base + math.min(list + 2, width - 1)], payload)
      end
    end
    redis.call('HDEL', KEYS[base + 1], unpack(due))
    redis.call('ZREM', KEYS[base], unpack(due))
    count = count + #due
  end
  local first = redis.call('ZRANGE', KEYS[base], 0, 0, 'WITHSCORES')
  if #first == 0 and #due > 0 then
    -- Only the counter of park.lua is left.
    redis.call('DEL', KEYS[base + 1])
  elseif #first > 0 then
    local left = math.max(0, first[2] - now)
    if wait < 0 or left < wait then
      wait = left
    end
  end
end
return {count, wait}
