-- Puts all messages that a consumer has leased from one queue back to the front, unchanged, and deletes the lease.
-- KEYS: the consumer's lease hash, the queue's set of deadlines, the queue's lists. ARGV: consumer.
-- Returns how many messages were put back.
-- Makes a full server accept the writes below: see reserve.lua.
redis.call('HDEL', KEYS[1], '')
return give_back(ARGV[1], KEYS[1], KEYS[2], 3)
