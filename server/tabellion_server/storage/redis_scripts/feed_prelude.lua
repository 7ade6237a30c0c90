-- What every script on the feed's slot begins with.
--
-- KEYS: 1 state (token, last, run, accepts, behind), 2 gaps.
local state, gaps = KEYS[1], KEYS[2]

-- Tokens and ids of changes that a master may have forgotten when it was started anew, or when
-- another took its place: so many are never given out.
local PASSED_OVER = 1048576

local function held(name)
  return tonumber(redis.call('HGET', state, name) or '0')
end

local function move_on()
  local mine = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local last = redis.call('HGET', state, 'run')
  if mine == last then
    return
  end
  redis.call('HSET', state, 'run', mine)
  if last then
    redis.call('RPUSH', gaps,
      integer(held('token')) .. ' ' .. integer(PASSED_OVER) .. ' ' .. integer(held('last')))
    redis.call('HINCRBY', state, 'token', PASSED_OVER)
    redis.call('HINCRBY', state, 'last', PASSED_OVER)
  end
end

-- Counts how many tokens lack, if one that was given out isn't known here: it's above all, or in a
-- gap. Gives the gap's place and the id of the last change before it too. Gaps grow, so the newest
-- that's below ends the search.
local function lacking(known)
  if known > held('token') then
    return known - held('token'), nil, held('last')
  end
  for place = redis.call('LLEN', gaps) - 1, 0, -1 do
    local gap = redis.call('LINDEX', gaps, place)
    local from, size, last, accepted = string.match(gap, '^(%d+) (%d+) (%d+)(.*)$')
    from, size = tonumber(from), tonumber(size)
    if known > from + size then
      return 0
    end
    if known > from then
      return accepted == '' and known - from or 0, place, tonumber(last)
    end
  end
  return 0
end

-- The same of what any node has known: who finds that something lacks says it to all. What isn't
-- judged has -1.
local function lost(known)
  if known < 0 then
    return 0
  end
  known = math.max(known, held('behind'))
  local missing, place, from = lacking(known)
  if missing > 0 then
    redis.call('HSET', state, 'behind', integer(known))
  end
  return missing, place, from
end
