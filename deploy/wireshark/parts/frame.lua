-- Packets between the switches of two labs, and memory that moved without a message; big-endian.

local add = P.add
local LINK_HEAD, MAX_BODY, VNET_HEAD, MEMORY_HEAD = 12, 10 + 65536, 10, 16
local MAX_FRAMES = 64
local ethernet = Dissector.get("eth_withoutfcs")

local function hello(s, at, count)
  local stop, names = at + count, {}
  if count < 6 then
    P.refuse("hello is cut short")
  end
  local mtu = P.be32(s, at)
  at = at + 6
  for index = 1, 2 do
    local size = at < stop and s:byte(at + 1) or 0
    names[index] = s:sub(at + 2, math.min(at + 1 + size, stop))
    if not names[index]:match("^[-a-z0-9_]+$") or #names[index] > 32 or names[index] == "state" then
      P.refuse("hello with a name that cannot be")
    end
    at = at + 1 + size
  end
  if at ~= stop then
    P.refuse("hello has a wrong length")
  end
  if mtu < 68 or mtu > 65521 then
    P.refuse("MTU %d", mtu)
  end
  return string.format("HELLO of %s/%s, MTU %d", names[1], names[2], mtu)
end

-- Offload work that travels in front of a frame; little-endian.
local function check_vnet(s, at)
  local flags, gso, size = s:byte(at + 1), s:byte(at + 2), P.le16(s, at + 4)
  local kind = gso % 128
  if flags > 3 or (kind ~= 0 and kind ~= 1 and kind ~= 3 and kind ~= 4) or (gso > 127 and kind ~= 1 and kind ~= 4)
    or (kind ~= 0 and size == 0) then
    P.refuse("vnet header")
  end
end

local function link_message(s, at, count)
  if count < LINK_HEAD then
    P.refuse("%d bytes", count)
  end
  local kind, length, vnet = s:byte(at + 4), P.be32(s, at + 4), P.be16(s, at + 8)
  if P.be16(s, at) ~= 0x504C or s:byte(at + 3) ~= 1 then
    P.refuse("not version 1 of a pvnet link")
  end
  if length > MAX_BODY or length ~= count - LINK_HEAD or (kind ~= 1 and kind ~= 2) then
    P.refuse("kind %d, %d bytes", kind, length)
  end
  if P.be16(s, at + 10) ~= 0 or (vnet ~= 0 and (kind == 1 or vnet ~= VNET_HEAD)) then
    P.refuse("bytes that must be 0 are not")
  end
  if kind == 1 then
    return {kind = 1, text = hello(s, at + LINK_HEAD, length)}
  end
  if length - vnet < 14 then
    P.refuse("packet of %d bytes", length - vnet)
  end
  if vnet ~= 0 then
    check_vnet(s, at + LINK_HEAD)
  end
  return {kind = 2, start = at + LINK_HEAD + vnet, length = length - vnet}
end

function P.net_frames(ctx, buf, message)
  local texts, list = {}, message.messages or {}
  for index, item in ipairs(list) do
    if index > MAX_FRAMES then
      break
    end
    local layer = P.layer(ctx, ctx.root, "net", buf, item.o, item.n)
    local found, wrong = P.guarded(link_message, buf.s, item.o, item.n)
    if not found then
      P.problem(ctx, layer, "net", "link message: " .. wrong)
      texts[#texts + 1] = string.format("link message of %d bytes", item.n)
    else
      add(layer, "net.kind", buf, item.o + 3, 1, found.kind)
      if found.kind == 1 then
        texts[#texts + 1] = found.text
        layer:append_text(": " .. found.text)
      else
        layer:append_text(string.format(": packet of %d bytes", found.length))
        texts[#texts + 1] = P.inner(ctx, ethernet, buf.tvb:range(found.start, found.length):tvb())
      end
    end
  end
  return #texts == 1 and texts[1] or string.format("%d frames: %s", #list, table.concat(texts, "; ", 1,
                                                                                         math.min(#texts, 3)))
end

-- A record of memory (link type 149).
function P.memory_record(ctx, buf)
  local s, layer = buf.s, P.layer(ctx, ctx.root, "memory", buf, 0, buf.length)
  if buf.length < MEMORY_HEAD then
    if not ctx.is_cut then
      P.problem(ctx, layer, "memory", string.format("memory record of %d bytes, 16 are the least", buf.length))
    end
    return "memory"
  end
  local kind, count = s:byte(1), buf.length - MEMORY_HEAD
  local name = P.SPEC["memory.kind"].values[kind]
  add(layer, "memory.kind", buf, 0, 1, kind)
  add(layer, "memory.address", buf, 8, 8, P.be32(s, 12), P.be32(s, 8))
  add(layer, "memory.length", buf, MEMORY_HEAD, count, count):set_generated()
  add(layer, "memory.data", buf, MEMORY_HEAD, count)
  if not name then
    P.problem(ctx, layer, "memory", string.format("memory record of kind %d", kind))
    name = string.format("kind %d", kind)
  end
  local text = ""
  if kind == 1 then
    text = P.payload(ctx, ctx.root, buf, MEMORY_HEAD, count)
  elseif kind == 2 then
    text = P.ring_piece(ctx, ctx.root, buf, MEMORY_HEAD, count) or ""
  end
  if text == "" then
    text = P.bytes_text(s, MEMORY_HEAD, count, 16)
  end
  return string.format("%s %s, %d bytes: %s", name, P.hex(P.be32(s, 12), P.be32(s, 8)), count, text)
end
