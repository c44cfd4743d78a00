-- Puts one message that a dead Celery worker left unacknowledged back to the front of its queues.
-- KEYS: the index of unacknowledged tags, their hash, the lists to put it on. ARGV: tag, the latest time that is overdue, payload.
-- Returns 1 when it was put back, 0 when it is acknowledged or no longer overdue.
local since = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not since or tonumber(since) > tonumber(ARGV[2]) or redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
for index = 3, #KEYS do
  redis.call('RPUSH', KEYS[index], ARGV[3])
end
return 1
