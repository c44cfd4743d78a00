-- Reserves the next ARGV[2] starts, ARGV[1] microseconds apart, and returns the microseconds until the first.
-- KEYS: the time of the next free start, in microseconds on the server's clock.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local first = tonumber(redis.call('GET', KEYS[1]) or now)
if first < now then
  first = now
end
local after = first + ARGV[1] * ARGV[2]
-- The key may expire once the last reserved start has passed.
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', string.format('%.0f', (after - now) / 1000 + 1000))
return string.format('%.0f', first - now)
