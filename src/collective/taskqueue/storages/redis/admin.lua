-- The administration of a queue: what an admin changes, and the consumers. lists.lua comes first.

function operation.recover()
  -- Returns whether there are more, and which tasks wait again. The server answers other
  -- clients between two calls.
  local more, back = recover(expired())
  return { more = more, back = back }
end

function operation.adopt(of)
  -- Recovers the tasks of consumers of that name whose processes are known to be dead. Returns
  -- whether there are more.
  local dead, ids = {}, {}
  for _, process in ipairs(of.processes) do dead[process] = true end
  for _, id in ipairs(call('LRANGE', P .. '.' .. of.consumer, 0, -1)) do
    local record = record_of(id)
    if record.state == 'running' and dead[record.process] then table.insert(ids, id) end
  end
  return (recover(ids))
end

function operation.processes(of)
  local found, seen = {}, {}
  for _, id in ipairs(call('LRANGE', P .. '.' .. of.consumer, 0, -1)) do
    local process = record_of(id).process
    if process and not seen[process] then
      seen[process] = true
      table.insert(found, process)
    end
  end
  return found
end

local function doubtful(batch)
  -- Returns the first entry of a batch; nothing if it is unreadable.
  local entry = call('LINDEX', batch_key(batch), 0)
  local head = entry and unpacked(entry)
  if is_head(head) then return head end
  -- Its transaction may have been committed: an admin decides about the tasks that can be read.
  local tasks = {}
  for _, portion in ipairs(call('LRANGE', batch_key(batch), 0, -1)) do add_tasks(tasks, portion) end
  fail_tasks(batch, tasks, 'it is unknown whether its transaction was committed')
  operation.discard({ batch = batch })
  note('broken', 'batch ' .. named(batch), 'its record is damaged, taken out of what is staged')
end

function operation.in_doubt(of)
  -- Returns whether there are more, the place of the last one, and a page of batches that
  -- were staged at least `age` seconds ago.
  local found, last = {}, of.after
  local page = call('ZRANGEBYSCORE', P .. ':staged', of.after, '+inf', 'WITHSCORES',
                    'LIMIT', 0, PORTION)
  for i = 1, #page, 2 do
    last = '(' .. page[i + 1]
    local head = doubtful(page[i])
    if head then
      local age = now - num(head.since)
      if age < of.age then return { more = false, last = last, batches = found } end
      local witness = type(head.witness) == 'string' and head.witness or nil
      table.insert(found, { id = page[i], witness = witness, age = age, ids = head.ids })
    end
  end
  return { more = #page == 2 * PORTION, last = last, batches = found }
end

function operation.mend(of)
  -- Moves wake-up keys of the wrong type aside: with them, consumers can neither wait nor wake.
  call('LLEN', P .. ':wake')
  call('LLEN', P .. ':wake:' .. of.process)
end

function operation.consumers()
  local running, found = {}, {}
  for _, id in ipairs(call('ZRANGE', line_of('running'), 0, CHUNK - 1)) do
    local record = record_of(id)
    if record.state == 'running' then
      local name = (record.consumer or '') .. ' ' .. (record.process or '')
      running[name] = running[name] or {}
      table.insert(running[name], id)
    end
  end
  local heard = call('ZRANGEBYSCORE', P .. ':consumers', text(now - HOUR), '+inf', 'WITHSCORES')
  for i = 1, #heard, 2 do
    local age = now - num(heard[i + 1], now)
    table.insert(found, { name = heard[i], age = age, running = running[heard[i]] or {} })
  end
  return found
end

function operation.forget_consumer(of)
  call('ZREM', P .. ':consumers', of.consumer .. ' ' .. of.process)
end

function operation.throughput()
  local numbers = { succeeded = 0, failed = 0, cancelled = 0 }
  local ended = call('HGETALL', P .. ':ended')
  for i = 1, #ended, 2 do
    local minute, state = string.match(ended[i], '^(%d+) (%a+)$')
    if num(minute, 0) > math.floor(now / 60) - 60 and numbers[state] then
      numbers[state] = numbers[state] + num(ended[i + 1], 0)
    end
  end
  return numbers
end

local function refused(state) return { done = false, state = state } end

local function change(states, act)
  -- Calls `act` with the record and the state of the task whose id is given, if it is in one of
  -- the states. `act` makes the change and returns the state that follows, or nothing if it
  -- refuses. Returns whether the change was made, now or by the unanswered call, and the state.
  local id, state = known(given.id)
  if not state then return unknown(id) end
  local record = record_of(id)
  local before = result_of(record)
  if before then return { done = true, state = before } end
  if not states[state] then return refused(state) end
  return act(record, state)
end

local CANCELLABLE = { queued = true, scheduled = true, running = true, unknown = true }
local RETRIABLE = { failed = true, cancelled = true }

local function cancel(record, state, reason)
  -- Returns the state that follows.
  if state == 'running' then
    set(record.id, 'cancel', '1', 'done', remembered(record, state))
    return state
  end
  withdraw(record)
  conclude(record, 'cancelled', reason, { done = remembered(record, 'cancelled') })
  return 'cancelled'
end

local function retry(record)
  unset(record.id, 'counted', 'lost', 'cancel', 'ended')
  queue(record, false, { done = remembered(record, 'queued') })
  return 'queued'
end

function operation.cancel(of)
  return change(CANCELLABLE, function(record, state)
    return { done = true, state = cancel(record, state, of.reason) }
  end)
end

function operation.retry()
  return change(RETRIABLE, function(record, state)
    local replaced = newer(record)
    if replaced then return { done = false, state = state, newer = replaced } end
    local follows = retry(record)
    wake(1)
    return { done = true, state = follows }
  end)
end

function operation.run_now()
  return change({ queued = true, scheduled = true }, function(record, state)
    if state == 'scheduled' then
      queue(record, false, { done = remembered(record, 'queued') })
      wake(1)
    end
    return { done = true, state = 'queued' }
  end)
end

function operation.forget_response()
  -- `found` in the result: whether there was a response.
  return change(FINISHED, function(record, state)
    if not get(record.id, 'last') then return { done = true, state = state, found = false } end
    unset(record.id, 'last', 'status')
    set(record.id, 'forgotten', '1', 'done', remembered(record, state))
    resize(record.id, weight(record))
    return { done = true, state = state, found = true }
  end)
end

function operation.remove(of)
  local id, state = known(of.id)
  if not state then return unknown(id) end
  if STATES[state] and not FINISHED[state] then return { done = false, state = state } end
  forget(record_of(id))
  return { done = true, state = state }
end

-- By the name of an action: the states that allow it, whether one of these tasks may be changed
-- now, and the change, which returns the state that follows.
local ACTIONS = {
  cancel = {
    states = CANCELLABLE,
    allows = function(record) return not (record.state == 'running' and record.cancel) end,
    act = function(record) return cancel(record, record.state, 'cancelled') end,
  },
  retry = {
    states = RETRIABLE,
    allows = function(record) return not newer(record) end,
    act = retry,
  },
  remove = {
    states = FINISHED,
    allows = function() return true end,
    act = function(record)
      forget(record)
      return record.state
    end,
  },
}

function operation.change(of)
  -- Returns the ids of the tasks that were changed, and the state of each. `ids` has one id at
  -- least.
  local action, wanted, ids, states = ACTIONS[of.action], {}, {}, {}
  for _, state in ipairs(of.states) do wanted[state] = action.states[state] end
  local expiry = call('ZMSCORE', P .. ':expiry', unpack(of.ids))
  for i, id in ipairs(of.ids) do
    local record, state = record_of(id)
    local before = result_of(record)
    if before then
      state = before
    elseif not record.state and repeated and of.action == 'remove' then
      -- The unanswered call has removed it, and nothing is known about it any more.
      state = of.states[1]
    elseif wanted[record.state] and num(expiry[i], math.huge) > now and action.allows(record) then
      state = action.act(record)
    end
    if state then
      ids[#ids + 1] = id
      states[#states + 1] = state
    end
  end
  if of.action == 'retry' then wake(#ids) end
  return { ids = ids, states = states }
end

function operation.clear()
  local cleared = {}
  local function take_away(record, popped)
    withdraw(record, popped)
    forget(record)
    table.insert(cleared, record.id)
  end
  local parked = call('HSCAN', P .. ':parked', 0, 'COUNT', PORTION)[2]
  for i = 1, #parked, 2 do
    local state, record = is_sound(parked[i + 1])
    if state == 'queued' then take_away(record) end
    call('HDEL', P .. ':parked', parked[i])
  end
  local places = call('ZRANGE', P .. ':scheduled', 0, PORTION - 1)
  for _, place in ipairs(places) do
    local state, record = is_sound(string.sub(place, 18))
    if state == 'scheduled' then take_away(record) end
    drop(P .. ':scheduled', place)
  end
  for _ = #places + 1, PORTION do
    local id = call('RPOP', P)
    if not id then break end
    -- Other entries are tombstones of withdrawn tasks, or are not tasks.
    if not exorcise(id) then
      local record = record_of(id)
      if record.state == 'queued' then
        take_away(record, true)
      elseif not record.state and not call('ZSCORE', line_of(''), id) then
        put_aside(id)
      else
        is_sound(id)
      end
    end
  end
  local rest = call('LLEN', P)
  if rest == 0 and call('ZCARD', line_of('queued')) > call('HLEN', P .. ':parked') and relist() then
    rest = call('LLEN', P)
  end
  return { cleared = cleared, rest = rest + call('ZCARD', P .. ':scheduled') }
end

function operation.purge(of)
  local line = line_of(of.state)
  local ids = call('ZRANGE', line, 0, PORTION - 1)
  for _, id in ipairs(ids) do forget_finished(id, line) end
  return ids
end

function operation.resume()
  call('DEL', P .. ':paused')
  wake(call('LLEN', P))
end

return answer()
