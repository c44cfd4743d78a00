-- Leases the messages parked under some keys to one consumer, due or not.
-- KEYS, for each queue: its set of parked messages, their hash, the consumer's lease hash, the queue's set of deadlines.
-- ARGV: consumer, lease (ms), next sequence number, lists per queue, then the keys.
-- Returns a list of {queue (0-based), list (0-based), payload}; the sequence numbers follow its order.
local seq = tonumber(ARGV[3])
local taken = {}

local function take(base, fields)
  for place, value in ipairs(redis.call('HMGET', KEYS[base + 1], unpack(fields))) do
    -- A key that is given twice finds its message once.
    if value and redis.call('ZREM', KEYS[base], fields[place]) == 1 then
      local list, payload = string.match(value, '^(%d+):(.*)$')
      -- A worker with more priority steps may have parked it: the lowest list here takes it.
      list = math.min(list, ARGV[4] - 1)
      redis.call('HSET', KEYS[base + 2], string.format('%.0f:%d', seq, list), payload)
      redis.call('HDEL', KEYS[base + 1], fields[place])
      taken[#taken + 1] = {(base - 1) / 4, list, payload}
      seq = seq + 1
    end
  end
end

for base = 1, #KEYS, 4 do
  local before = #taken
  if redis.call('EXISTS', KEYS[base + 1]) == 1 then
    -- The highest number that park.lua has put after a key.
    local more = tonumber(redis.call('HGET', KEYS[base + 1], '\n') or 0)
    local fields = {}
    for index = 5, #ARGV do
      fields[#fields + 1] = ARGV[index]
      for number = 1, more do
        fields[#fields + 1] = ARGV[index] .. '\n' .. number
      end
      -- Lua's stack holds a few thousand arguments.
      if #fields >= 1000 then
        take(base, fields)
        fields = {}
      end
    end
    if #fields > 0 then
      take(base, fields)
    end
  end
  if #taken > before then
    if redis.call('EXISTS', KEYS[base]) == 0 then
      redis.call('DEL', KEYS[base + 1])
    end
    redis.call('ZADD', KEYS[base + 3], string.format('%.0f', server_time() + ARGV[2]), ARGV[1])
  end
end
return taken
