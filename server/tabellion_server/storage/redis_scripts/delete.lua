-- Drops a GUN. What stays: its last revision, its numbers, its audit, what the feed must be told.
--
-- KEYS: 4 files, 5 hashes, 6 stored, 7 events, 8 targets, 9 outbox, 10 pending, 11 audit,
-- 12 audits, 13 collected, 14 keys; the bytes of its files lie on the same slot, under the prefix given.
local files, hashes, stored, events, targets = KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local outbox, pending, audit, audits, keys = KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[14]

local token, moved, is_accepted, moment, gun = take(), take(), take(), take(), take()
local change, blob = take(), take()

if was_done(token) then
  return {'done', {}, redis.call('HGETALL', outbox)}
end
local refused = refusal(token, moved, is_accepted, moment)
if refused then
  return refused
end
if is_late(token) then
  return {'fenced'}
end
was_moved_on()
local is_there = redis.call('EXISTS', head, events, keys, pending) > 0
drop_pending(pending, audit, audits, token, gun, moment)
for _, name in ipairs(redis.call('HKEYS', files)) do
  redis.call('UNLINK', blob .. name)
end
redis.call('UNLINK', head, files, hashes, stored, events, targets, KEYS[13], keys)
-- Who was about to make the GUN asks again: its name is about to be taken from the list.
redis.call('HSET', kept, 'fence', token)
forget_told(outbox, moved)
if is_there then
  tell(outbox, change)
end
note_done(token)
return {is_there and 'done' or 'nothing', {}, redis.call('HGETALL', outbox)}
