-- Writes a proposal over the one at a revision, and what was done to it.
--
-- KEYS: 4 pending, 5 audit, 6 audits, 7 outbox.
local pending, audit, audits, outbox = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local token, _, _, _ = take(), take(), take(), take()
local id, revision, at_most, packed, entry = take(), take(), take(), take(), take()

local function answer(word, more)
  return {word, {}, redis.call('HGETALL', outbox), more}
end

if was_done(token) then
  return answer('done')
end
if is_late(token) or tonumber(token) <= held('fence') then
  return {'fenced'}
end
local found = redis.call('HGET', pending, id)
if (found and proposal(found) or '0') ~= revision then
  return answer('other')
end
if not found and redis.call('HLEN', pending) >= tonumber(at_most) then
  return answer('full', integer(redis.call('HLEN', pending)))
end
redis.call('HSET', pending, id, packed)
add_row(audit, audits, id, token, entry)
note_done(token)
return answer('done')
