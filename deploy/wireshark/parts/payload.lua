-- What a VMC session carries: pvnet's own management frames ("PVNE"), and messages of the public router category.

local add = P.add
local FRAME_HEAD, ROUTER_HEAD = 12, 32

local function management(ctx, tree, buf, at, count)
  if count < FRAME_HEAD or P.be16(buf.s, at + 4) ~= 1 or P.be32(buf.s, at + 8) ~= count - FRAME_HEAD then
    return ""
  end
  local start, length = at + FRAME_HEAD, count - FRAME_HEAD
  local name = "pvnet.v1.Management"
  local message = P.message(name, buf, start, length)
  if not message then
    return ""
  end
  local text = message.chosen.command
  if not text then
    name = "pvnet.v1.ManagementReply"
    message = P.message(name, buf, start, length)
    if not message then
      return ""
    end
    text = "reply " .. P.name("mgmt.status", P.value(message, "status"))
  end
  local layer = P.layer(ctx, tree, "mgmt", buf, at, count)
  layer:append_text(": " .. text)
  P.show(layer, name, "mgmt", buf, message, at + count)
  return "management " .. text
end

local function router(ctx, tree, buf, at, count)
  local s = buf.s
  if count < ROUTER_HEAD or s:byte(at + 4) ~= ROUTER_HEAD or P.be32(s, at + 4) ~= count
    or P.be32(s, at + 16) ~= count - ROUTER_HEAD then
    return ""
  end
  local target, flags, opcode, rc = P.be16(s, at + 12), s:byte(at + 16), P.be16(s, at + 20), P.be16(s, at + 22)
  local layer = P.layer(ctx, tree, "router", buf, at, count)
  add(layer, "router.target", buf, at + 12, 2, target)
  add(layer, "router.opcode", buf, at + 20, 2, opcode)
  add(layer, "router.correlation", buf, at + 8, 4, P.be32(s, at + 8))
  add(layer, "router.flags", buf, at + 15, 1, flags)
  add(layer, "router.rc", buf, at + 22, 2, rc)
  add(layer, "router.data", buf, at + ROUTER_HEAD, count - ROUTER_HEAD)
  local text = "router " .. P.name("router.opcode", opcode)
  if P.has(flags, 0x40) then
    text = text .. " " .. P.name("router.rc", rc)
    if rc ~= 0 then
      P.note(layer, "router answers " .. P.name("router.rc", rc))
    end
  end
  layer:append_text(": " .. text)
  return text
end

-- Show what the bytes are, if that is known; return it as text.
function P.payload(ctx, tree, buf, at, count)
  local head = buf.s:sub(at + 1, at + math.min(count, 4))
  if head == "PVNE" then
    return management(ctx, tree, buf, at, count)
  elseif head:sub(1, 3) == "\222\202\255" then
    return router(ctx, tree, buf, at, count)
  end
  return ""
end

-- The same for bytes that a call carries; " [what they are, or how they begin]".
function P.carried(ctx, tree, buf, at, count)
  if count == 0 then
    return ""
  end
  local text = P.payload(ctx, tree, buf, at, count)
  return " [" .. (text ~= "" and text or P.bytes_text(buf.s, at, count, 16)) .. "]"
end
