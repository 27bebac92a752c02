-- The road of a task: promote, reserve, renew, report, complete, release. common.lua comes first.

local ALIASES = 1000    -- aliases (ids of skipped tasks) kept for each waiting task
local FAR = 1e14        -- seconds since the epoch: no task is due later

-- from a staged batch to the queue

local function skip(id, earlier, tid)
  local names = P .. ':aliases:' .. earlier
  call('HSET', P .. ':aliases', id, earlier)
  there.aliases = true
  if call('RPUSH', names, id) > ALIASES then call('HDEL', P .. ':aliases', call('LPOP', names)) end
  see(earlier, tid)
  note('skipped', id, earlier)
end

local function promote(task, tid)
  local id, key, due = task.id, task.key, num(task.due, 0)
  local same = key and waiting_of(key) or {}
  if #same > 0 and task.mode == 'skip' then
    skip(id, same[#same], tid)
    return
  end
  local record, fields = create(task, tid)
  if #same > 0 then
    write_fields(id, fields)
    fields = nil
  end
  for _, earlier in ipairs(same) do
    local its = record_of(earlier)
    withdraw(its)
    supersede(its, id)
  end
  if due > now then
    schedule(record, due, '', fields)
  else
    queue(record, false, fields)
  end
end

local function known_among(tasks)
  -- Returns whether any of the tasks may be there already.
  local keys = {}
  for i, task in ipairs(tasks) do keys[i] = task_key(task.id) end
  keys[#keys + 1] = P .. ':aliases'
  for i = 1, #keys, CHUNK do
    if call('EXISTS', unpack(keys, i, math.min(i + CHUNK - 1, #keys))) > 0 then return true end
  end
  return false
end

function operation.promote(of)
  -- Returns 1: promoted, 0: was promoted before, -1: the batch is lost, call with its tasks.
  local batch, tid = of.batch, of.tid
  if call('EXISTS', P .. ':promoted:' .. batch) == 1 then return 0 end
  local tasks = staged(batch)
  if #tasks == 0 then
    for i = TASKS, #ARGV do add_tasks(tasks, ARGV[i]) end
    if #tasks == 0 then return -1 end
    -- The mark of an earlier promotion has expired, but the tasks are still there.
    if is_there(tasks[1].id) then return 0 end
  end
  local known, seen = known_among(tasks), {}
  for _, task in ipairs(tasks) do
    if seen[task.id] or known and is_there(task.id) then
      note('known', task.id)
    else
      promote(task, tid)
    end
    seen[task.id] = true
  end
  settle(batch)
  wake(#tasks)
  return 1
end

-- the ticks of schedules

local function schedule_of(name)
  local found = unpacked(call('HGET', P .. ':schedules', name) or '') or {}
  local runs = {}
  for _, run in ipairs(type(found.runs) == 'table' and found.runs or {}) do
    if type(run) == 'table' and num(run[1]) and type(run[2]) == 'string' then
      runs[#runs + 1] = { run[1], run[2] }
    end
  end
  return { last = num(found.last), paused = found.paused == true, runs = runs }
end

local function keep_schedule(name, schedule)
  call('HSET', P .. ':schedules', name, cmsgpack.pack(schedule))
end

function operation.tick(of)
  -- Returns whether this call has moved the last tick, or queued the task without that.
  local schedule, tasks = schedule_of(of.schedule), {}
  local last = schedule.last
  if of.moves then
    if schedule.paused or of.at > now or (last and last >= of.at) then return false end
    schedule.last = of.at
  end
  if ARGV[TASKS] then add_tasks(tasks, ARGV[TASKS]) end
  for _, task in ipairs(tasks) do
    table.insert(schedule.runs, 1, { of.at, task.id })
    schedule.runs[of.most + 1] = nil
  end
  -- Before the task, so that the tick is not repeated if the rest fails.
  keep_schedule(of.schedule, schedule)
  for _, task in ipairs(tasks) do
    if is_there(task.id) then note('known', task.id) else promote(task) end
  end
  wake(#tasks)
  return true
end

function operation.schedule(of)
  local schedule = schedule_of(of.schedule)
  schedule.now = now
  return schedule
end

function operation.pause_schedule(of)
  local schedule = schedule_of(of.schedule)
  schedule.paused = true
  keep_schedule(of.schedule, schedule)
end

function operation.resume_schedule(of)
  local schedule = schedule_of(of.schedule)
  if not schedule.paused then return end
  schedule.paused, schedule.last = false, math.max(now, schedule.last or now)
  keep_schedule(of.schedule, schedule)
end

-- To create the functions of all that follows takes longer than a small call of `promote` does.
if operation[ARGV[1]] then return answer() end

-- from the queue to a consumer

local function ripen()
  local due = call('ZRANGEBYSCORE', P .. ':scheduled', '-inf', NOW, 'LIMIT', 0, PORTION)
  for _, place in ipairs(due) do
    local id = string.sub(place, 18)
    local state, record = is_sound(id)
    if state == 'scheduled' then
      queue(record)
    elseif state then
      note('broken', named(id), 'it is not scheduled, taken out of that list')
    end
    drop(P .. ':scheduled', place)
  end
  if #due > 0 then wake(#due) end
end

local function hear_of(consumer, process)
  if call('ZADD', P .. ':consumers', NOW, consumer .. ' ' .. process) == 1 then
    call('ZREMRANGEBYSCORE', P .. ':consumers', '-inf', text(now - HOUR))
  end
end

local function mend_moments()
  -- A task that is never due would wait for ever; a lease that never expires would keep its
  -- task running for ever.
  local function far(line)
    return ipairs(call('ZRANGEBYSCORE', line, FAR, '+inf', 'LIMIT', 0, PORTION))
  end
  for _, place in far(P .. ':scheduled') do
    local id = string.sub(place, 18)
    local state, record = is_sound(id)
    if state == 'scheduled' then
      local reason = 'its record is damaged: its due time is unknown'
      if record.key then free_key(record.key, id) end
      conclude(record, 'failed', reason)
      note('failed', id, reason)
    end
    drop(P .. ':scheduled', place)
  end
  for _, id in far(P .. ':leases') do
    put(P .. ':leases', id, text(now + settings.lease))
  end
end

local function soonest()
  -- Returns the seconds until a task is due or a lease expires; nothing if there are none.
  local least
  for _, line in ipairs({ P .. ':scheduled', P .. ':leases' }) do
    local first = num(call('ZRANGE', line, 0, 0, 'WITHSCORES')[2])
    if first then least = math.min(least or math.huge, math.max(first - now, 0.001)) end
  end
  return least
end

local function lease_of(record, expires)
  return {
    id = record.id, body = record.body, payload = record.payload, token = record.token,
    number = num(record.number, 1), counted = num(record.counted, 0), expires = expires,
    tid = record.tid, slot = record.slot, lost = num(record.lost, 0),
  }
end

local function holds(record, token)
  return record.state == 'running' and record.token == token
end

local function start(record, token, slot)
  local id, key, expires = record.id, record.key, text(now + given.lease)
  if key then
    free_key(key, id)
    join_key(P .. ':running-keys', key, running_of(key), id)
    call('HSET', P .. ':running-key', id, key)
    there['running-key'] = true
  end
  local number = integer(num(record.number, 0) + 1)
  record.token, record.number = token, number
  -- Each delivery of an attempt has the slot of the first one.
  record.slot = record.slot or slot
  enter(record, 'running', next_number(), '', {
    slot = record.slot, token = token, consumer = given.consumer, process = given.process, started = NOW,
    number = number,
  })
  if record.progress then unset(id, 'progress') end
  put(P .. ':leases', id, expires)
  return lease_of(record, expires)
end

local function take(mine, careful)
  -- Returns leases, and whether all waiting tasks were examined. With `careful`, a redelivered
  -- task is claimed alone: if its process is lost again, each task claimed with it counts a loss.
  local leases, looked = {}, 0
  while #leases < given.limit and looked < LOOKS do
    local id = call('RPOPLPUSH', P, mine)
    if not id then
      local parked = call('HLEN', P .. ':parked')
      local whole = #leases > 0 or call('ZCARD', line_of('queued')) == parked
      return leases, whole or not relist()
    end
    local is_ghost = exorcise(id)
    local record = is_ghost and {} or read_record(id, LEASED)
    local redelivered = careful and record.lost
    looked = looked + 1
    if is_ghost then
      -- The record may be deleted by now, so it is not looked at.
      call('LREM', mine, 1, id)
    elseif record.state ~= 'queued' then
      call('LREM', mine, 1, id)
      if not record.state then
        if call('EXISTS', task_key(id)) == 0 and not call('ZSCORE', line_of(''), id) then
          put_aside(id)
        else
          is_sound(id)
        end
      elseif not STATES[record.state] then
        is_sound(id)
      end
    elseif record.key and record.mode == 'after_running' and #running_of(record.key) > 0 then
      call('LREM', mine, 1, id)
      call('HSET', P .. ':parked', record.key, id)
    elseif redelivered and #leases > 0 then
      call('LREM', mine, 1, id)
      call('RPUSH', P, id)
      break
    else
      local number = #leases + 1
      table.insert(leases, start(record, call_id .. '.' .. number, given.slots[number]))
      looked = looked - 1
      if redelivered then break end
    end
  end
  return leases, looked < LOOKS
end

local function incarnation()
  -- A storage that remembers another value knows that the server has lost all data.
  local found = call('GET', P .. ':incarnation')
  if not found then
    found = NOW
    call('SET', P .. ':incarnation', found)
  end
  return found
end

local function reserved_before(mine)
  -- Returns the leases that the unanswered call has made: their tokens begin with its id. No
  -- heartbeat has renewed them, so renew them now, however long ago they were made.
  local leases, expires = {}, text(now + given.lease)
  -- The oldest is at the right end.
  for _, id in ipairs(call('LRANGE', mine, 0, -1)) do
    local record = read_record(id, LEASED)
    local token = record.state == 'running' and record.token or ''
    if string.sub(token, 1, #call_id + 1) == call_id .. '.' then
      put(P .. ':leases', id, expires)
      table.insert(leases, 1, lease_of(record, expires))
    end
  end
  return leases
end

local function reserve(careful)
  local leases, done, mine = {}, true, P .. '.' .. given.consumer
  hear_of(given.consumer, given.process)
  recover(expired())
  ripen()
  is_untidy = true
  if repeated then leases = reserved_before(mine) end
  if #leases == 0 and call('EXISTS', P .. ':paused') == 0 then
    leases, done = take(mine, careful)
  end
  local found = { leases = leases, incarnation = incarnation() }
  if #leases == 0 then
    mend_moments()
    found.soonest = 0
    if done then found.soonest = soonest() end
  elseif call('LLEN', P) > 0 then
    wake(1)
  end
  return found
end

function operation.reserve() return reserve(false) end

function operation.renew(of)
  local record = record_of(of.id)
  if not holds(record, of.token) then return false end
  hear_of(record.consumer or '', record.process or '')
  put(P .. ':leases', of.id, text(now + of.lease))
  return true
end

function operation.report(of)
  -- Returns whether the task shall stop.
  local record = record_of(of.id)
  if not holds(record, of.token) then return true end
  if of.progress then set(of.id, 'progress', of.progress) end
  return record.cancel ~= nil
end

-- from a consumer to the next state

function operation.complete(of)
  -- Returns the state that the task has now; nothing if the lease is lost.
  local record = record_of(of.id)
  local before = result_of(record, of.token)
  if before then return before end
  if not holds(record, of.token) then return nil end
  release(record)
  remember(record, of.attempt)
  record.last = of.last
  local more = { status = of.status, last = of.last }
  if record.forgotten then unset(of.id, 'forgotten') end
  -- An attempt that has committed nothing leaves its slot to the next one: the process of an
  -- earlier delivery may be alive, and must not commit beside it.
  if record.slot and (of.drops_slot or of.state == 'succeeded') then unset(of.id, 'slot') end
  local replaced, state = newer(record), of.state
  if record.cancel or replaced and state == 'scheduled' then state = 'cancelled' end
  more.done = remembered(record, state, of.token)
  if record.cancel then
    conclude(record, state, 'cancelled while running', more)
  elseif of.state ~= 'scheduled' then
    conclude(record, state, of.reason, more)
  elseif replaced then
    supersede(record, replaced, true, more)
  else
    more.counted = num(record.counted, 0) + of.counts
    schedule(record, num(of.due, now), of.reason, more)
    wake(1)
  end
  return state
end

function operation.complete_and_reserve(of)
  local states = {}
  for i, completion in ipairs(of.completions) do
    states[i] = operation.complete(completion) or ''
  end
  local found = reserve(true)
  found.states = states
  return found
end

function operation.release(of)
  -- Returns the ids of the tasks that wait again.
  local ids = {}
  -- Release the last lease first, so that the first task ends up at the very front.
  for i = #of.leases, 1, -1 do
    local held = of.leases[i]
    local record = record_of(held.id)
    if result_of(record, held.token) then
      table.insert(ids, 1, record.id)
    elseif holds(record, held.token) then
      release(record)
      if record.progress then unset(record.id, 'progress') end
      record.progress = nil
      local more = { number = math.max(num(record.number, 1) - 1, 0) }
      if not is_pointless(record, more) then
        more.done = remembered(record, 'queued', held.token)
        queue(record, true, more)
        table.insert(ids, 1, record.id)
      end
    end
  end
  wake(#ids)
  return ids
end

return answer()
