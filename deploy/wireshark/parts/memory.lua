-- The memory of partitions whose bridge keeps a copy: what all messages have written so far.  A bridge call names its
-- parameters by address, and a message carries only the bytes that have changed since the last one.

local PAGE, MAX_PAGES = 256, 65536
local ZERO = ("\0"):rep(PAGE)
local images, taken

function P.forget_memory()
  images, taken = {}, {}
end
P.forget_memory()

local function write(image, address, data)
  local at = 0
  while at < #data do
    local offset = address % PAGE
    local number, count = (address - offset) / PAGE, math.min(PAGE - offset, #data - at)
    local page = image.pages[number]
    if not page then
      image.count = image.count + 1
    end
    page = page or ZERO
    image.pages[number] = page:sub(1, offset) .. data:sub(at + 1, at + count) .. page:sub(offset + count + 1)
    address, at = address + count, at + count
  end
end

local function read(image, address, length)
  local parts = {}
  while length > 0 do
    local offset = address % PAGE
    local count = math.min(PAGE - offset, length)
    local page = image.pages[(address - offset) / PAGE] or ZERO
    parts[#parts + 1] = page:sub(offset + 1, offset + count)
    address, length = address + count, length - count
  end
  return table.concat(parts)
end

-- Bytes at (address, length) as they were when this message came; nil: not known.  A packet is dissected several
-- times, and one message may be in a capture twice: what it saw first is kept.
function P.remembered(ctx, address, length)
  local seen, key = taken[ctx.identity], string.format("%.0f:%d", address, length)
  if seen[key] == nil and ctx.is_first then
    seen[key] = read(ctx.image, address, length)
  end
  return seen[key]
end

-- Take over what a message of vbus has written; sets ctx.image where there is a copy.
function P.remember_memory(ctx, name, message, body, buf)
  local source, destination = P.text(message, "source"), P.text(message, "destination")
  local ends = source < destination and source .. " " .. destination or destination .. " " .. source
  local boot, seq = message.source_incarnation or {v = 0, h = 0}, P.value(message, "seq")
  ctx.identity = seq == 0 and ctx.pinfo.number
    or string.format("%s %s %s %.0f %.0f", source, P.hex(boot.v, boot.h), destination, P.value(message, "stream"), seq)
  ctx.is_first = taken[ctx.identity] == nil
  taken[ctx.identity] = taken[ctx.identity] or {}
  if name == "vbus_attach" and ctx.is_first then
    images[ends] = P.value(body, "shared") == 0 and {pages = {}, count = 0} or nil
  end
  local image = images[ends]
  if not image then
    return
  end
  if ctx.is_first then
    for _, item in ipairs(body.writes or {}) do
      local at, count = P.bytes(item.m, "data")
      local address = P.value(item.m, "address")
      if address < 2 ^ 53 - 65536 * 16 and image.count < MAX_PAGES then
        write(image, address, buf.s:sub(at + 1, at + count))
      end
    end
  end
  ctx.image = image
end
