-- Writes a proposal over the one at a revision, and what was done to it.
--
-- KEYS: 4 pending, 5 audit, 6 audits.
local pending, audit, audits = KEYS[4], KEYS[5], KEYS[6]
local name, id, revision, at_most, packed, entry = take(), take(), take(), take(), take(), take()

if was_done(name) then
  return {'done'}
end
local found = redis.call('HGET', pending, id)
if (found and proposal(found) or '0') ~= revision then
  return {'other'}
end
if not found and redis.call('HLEN', pending) >= tonumber(at_most) then
  return {'full', integer(redis.call('HLEN', pending))}
end
redis.call('HSET', pending, id, packed)
write_audit(audit, audits, id, entry)
note_done(name)
return {'done'}
