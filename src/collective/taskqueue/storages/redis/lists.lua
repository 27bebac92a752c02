-- What an admin reads of the tasks of a queue: one, a list, or what a search finds. common.lua
-- comes first, admin.lua follows.

local ORDER = { 'queued', 'scheduled', 'running', 'succeeded', 'failed', 'cancelled' }

-- The fields of a brief status, and those that a full one has, too.
local BRIEF = { 'state', 'reason', 'changes', 'consumer', 'body', 'number', 'progress', 'cancel',
                'status', 'forgotten', 'place', 'user', 'person' }
local WHOLE = { 'payload', 'last', unpack(BRIEF) }

local function known(id)
  -- Returns the id of the task (of an alias: of the waiting task) and its state, or no state.
  id = call('HGET', P .. ':aliases', id) or id
  local found = redis.pcall('HMGET', task_key(id), 'state', 'body')
  if found.err or not (found[1] or found[2]) then return id end
  if num(call('ZSCORE', P .. ':expiry', id), math.huge) <= now then return id end
  return id, STATES[found[1]] and found[1] or 'unknown'
end

local function unknown(id) return redis.error_reply('UNKNOWN ' .. id) end

local function whose(state)
  -- Returns the line of a state: of all tasks, of a user id, or of a person.
  if given.user then return P .. ':of:' .. state .. ':' .. given.user end
  if given.person then return P .. ':person:' .. state .. ':' .. given.person end
  return line_of(state)
end

function operation.counts()
  -- Returns nothing if there may be more expired records: call again.
  if remove_expired(PORTION) then return end
  local found = {}
  for _, state in ipairs(ORDER) do found[state] = call('ZCARD', whose(state)) end
  return found
end

local function status_of(id, whole)
  -- Returns nothing if there is no record.
  local record = read_record(id, whole and WHOLE or BRIEF)
  if not (record.state or record.body) then return end
  if record.state == 'scheduled' then
    record.due = call('ZSCORE', line_of('scheduled'), record.place or '') or nil
  end
  if whole then record.history = call('LRANGE', P .. ':history:' .. id, 0, -1) end
  return record
end

function operation.get(of)
  local id, state = known(of.id)
  if not state then return unknown(id) end
  return status_of(id, not of.brief)
end

local function belongs(record, state)
  if state ~= '' and STATES[record.state] and record.state ~= state then return false end
  if given.user then return record.user == given.user end
  return not given.person or record.person == given.person
end

function operation.tasks(of)
  -- Returns nothing if there may be more expired records: call again.
  if remove_expired(PORTION) then return end
  local state, found, start, rest = of.state, {}, of.start, of.size
  local line = whose(state)
  while rest > 0 do
    local page, strays = call('ZRANGE', line, start, start + math.min(rest, CHUNK) - 1), 0
    for _, member in ipairs(page) do
      local id = state == 'scheduled' and string.sub(member, 18) or member
      local status = status_of(id)
      if status and belongs(status, state) then
        table.insert(found, status)
      else
        drop(line, member)
        if status then
          note('broken', named(id), 'it does not belong into a list, taken out of that')
        else
          take_out(id)
        end
        strays = strays + 1
      end
    end
    rest, start = rest - #page + strays, start + #page - strays
    if #page == 0 then break end
  end
  return found
end

-- searches

-- The fields that a filter is compared with.
local COMPARED = { 'state', 'reason', 'body', 'user', 'person' }

local function matches(record, of)
  -- Returns whether a task fulfils all conditions of a filter; as `TaskFilter.matches`.
  -- A task whose state is unreadable is shown as failed.
  local state = STATES[record.state] and record.state or 'failed'
  if #of.states > 0 and not of.wanted[state] then return false end
  if not belongs(record, '') then return false end
  if of.reason and not string.find(string.lower(record.reason or ''), of.reason, 1, true) then
    return false
  end
  if not (of.url or of.since or of.before) then return true end
  local task = unpacked(record.body or '')
  if not task or type(task.url) ~= 'string' then return false end
  local created = tonumber(task.created) or 0
  return (not of.url or string.sub(task.url, 1, #of.url) == of.url)
    and (not of.since or created >= of.since)
    and (not of.before or created < of.before)
end

local function few(of)
  -- Returns the ids of all tasks in the states of a filter, and the number of each by its id, in
  -- the order in which they were added; nothing if there are too many to examine.
  local total, ids, numbers = 0, {}, {}
  for _, state in ipairs(of.states) do total = total + call('ZCARD', whose(state)) end
  if #of.states == 0 or total > of.scan then return end
  local after = tonumber(of.after)
  for _, state in ipairs(of.states) do
    local members = call('ZRANGE', whose(state), 0, -1)
    if state == 'scheduled' then
      for i = 1, #members do members[i] = string.sub(members[i], 18) end
    end
    for i = 1, #members, CHUNK do
      local last = math.min(i + CHUNK - 1, #members)
      local found = call('ZMSCORE', line_of(''), unpack(members, i, last))
      for j = i, last do
        local number = num(found[j - i + 1])
        if number and number > after then
          ids[#ids + 1] = members[j]
          numbers[members[j]] = math.ceil(number)
        end
      end
    end
  end
  table.sort(ids, function(a, b) return numbers[a] < numbers[b] end)
  return ids, numbers
end

local function following(of, after, limit)
  -- Returns the same of `limit` tasks that were added after a number.
  local ids, numbers = {}, {}
  local page = call('ZRANGEBYSCORE', whose(''), '(' .. after, integer(LARGEST), 'WITHSCORES',
                    'LIMIT', 0, limit)
  for i = 1, #page, 2 do
    ids[#ids + 1] = page[i]
    -- A damaged number may have a fraction: go on after it all the same.
    numbers[page[i]] = math.ceil(tonumber(page[i + 1]))
  end
  return ids, numbers
end

function operation.search(of)
  -- Returns nothing if there may be more expired records: call again. Otherwise a page of tasks
  -- and the number of the last task that was examined, or no number if there are no more tasks.
  -- Examines at most `scan` tasks; changes nothing, also if data is damaged.
  if remove_expired(PORTION) then return end
  of.wanted = {}
  for _, state in ipairs(of.states) do of.wanted[state] = true end
  local found, examined, last = {}, 0, of.after
  local ids, numbers = few(of)
  local all = ids ~= nil
  if not all then ids, numbers = following(of, last, of.portion) end
  while #ids > 0 do
    for _, id in ipairs(ids) do
      if examined == of.scan or #found == of.size then return { found = found, last = last } end
      examined, last = examined + 1, integer(numbers[id])
      local status = matches(read_record(id, COMPARED), of) and status_of(id)
      if status then found[#found + 1] = status end
    end
    if all then break end
    ids, numbers = following(of, last, of.portion)
  end
  return { found = found }
end
