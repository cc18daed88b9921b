-- Binds a queue that expires, so that kombu's sweep removes the table when nobody refreshes it.
--
-- KEYS  1 table of the exchange, 2 deadlines
-- ARGV  1 binding, 2 exchange, 3 ms from now

-- So that a server whose memory is full lets a worker start, which empties it.
redis.call('SREM', KEYS[1], '')

redis.call('SADD', KEYS[1], ARGV[1])
local now = redis.call('TIME')
redis.call('ZADD', KEYS[2], 'GT', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[3], ARGV[2])
