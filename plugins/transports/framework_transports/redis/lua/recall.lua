-- Leases what is parked under some keys to one consumer, whenever it is due.
-- KEYS, for each queue: its set of parked messages, its shelf, the consumer's lease hash, the queue's set of deadlines.
-- ARGV: consumer, lease (ms), next sequence number, lists per queue, how many may share a key (see park.lua), then the keys.
-- Returns a list of {queue (0-based), list (0-based), payload}; the sequence numbers follow its order.
local seq = tonumber(ARGV[3])
local taken = {}

local function take(base, field, value)
  local list, payload = string.match(value, '^(%d+):(.*)$')
  -- One that another release parked, with more priorities, is served last.
  list = math.min(list, ARGV[4] - 1)
  -- Lets a full server take the writes below: see reserve.lua.
  redis.call('ZREM', KEYS[base], field)
  redis.call('HSET', KEYS[base + 2], string.format('%.0f:%d', seq, list), payload)
  redis.call('HDEL', KEYS[base + 1], field)
  taken[#taken + 1] = {(base - 1) / 4, list, payload}
  seq = seq + 1
end

for base = 1, #KEYS, 4 do
  local before = #taken
  if redis.call('EXISTS', KEYS[base + 1]) == 1 then
    for index = 6, #ARGV do
      local fields = {ARGV[index]}
      for number = 1, ARGV[5] - 1 do
        fields[number + 1] = ARGV[index] .. '\n' .. number
      end
      for place, value in ipairs(redis.call('HMGET', KEYS[base + 1], unpack(fields))) do
        if value then
          take(base, fields[place], value)
        end
      end
    end
  end
  if #taken > before then
    local clock = redis.call('TIME')
    local deadline = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[2])
    redis.call('ZADD', KEYS[base + 3], deadline, ARGV[1])
  end
end
return taken
