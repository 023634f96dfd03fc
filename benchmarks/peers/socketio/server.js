// A durable chat on socket.io 4, as one would write it today: what `make bench BESIDE=socketio` measures beside Hongyan.
//
// Two processes share a port and talk through the Redis adapter. A send is checked against Redis, appended in Redis and only
// then acknowledged and emitted. What it does and does not do is told in docs/benchmarks.md. It is started, filled and
// stopped by benchmarks/peer.py, which knows these keys too:
//
//   user:<id>           hash   name, avatar, active ("1")
//   friends:<id>        set    ids of those who may write to the user
//   groups:<id>         set    ids of the groups the user is in
//   members:<group>     set    ids of users
//   history:<id>:<peer>, history:group:<group>, inbox:<id>   lists of messages as JSON, oldest first
//
// Environment: PORT, REDIS_SOCKET, SECRET.

"use strict";

const cluster = require("node:cluster");
const crypto = require("node:crypto");
const http = require("node:http");

const PROCESSES = 2;
const BACKLOG = 4096; // sockets come back by the thousand
const MAX_BODY_BYTES = 65_536;
const IDLE_CONNECTION_MS = 75_000; // Node's own 5 s would end the generator's connections between two measurements

if (cluster.isPrimary) {
  supervise();
} else {
  serve();
}

function supervise() {
  let listening = 0;
  cluster.on("listening", () => {
    listening += 1;
    if (listening === PROCESSES) console.log("ready");
  });
  // A process that ends takes its costs with it: such a measurement is void, and going on would only hide it.
  cluster.on("exit", () => process.exit(1));
  for (let number = 0; number < PROCESSES; number += 1) cluster.fork();
}

function serve() {
  const { createAdapter } = require("@socket.io/redis-adapter");
  const { Redis } = require("ioredis");
  const { Server } = require("socket.io");

  // Commands of one turn of the event loop share a write, whichever sends they belong to.
  const redis = new Redis({ path: process.env.REDIS_SOCKET, enableAutoPipelining: true });
  // One command for a group rather than one for each member: less for Node to encode and await, and all or nothing.
  redis.defineCommand("appendToAll", { lua: "for _, key in ipairs(KEYS) do redis.call('RPUSH', key, ARGV[1]) end" });
  const server = http.createServer({ keepAliveTimeout: IDLE_CONNECTION_MS }, (request, response) => {
    receive(request, (body) => answer(request, body, response));
  });
  const io = new Server(server, {
    transports: ["websocket"], // no polling, so no sticky sessions
    perMessageDeflate: false,
    serveClient: false,
    adapter: createAdapter(redis.duplicate(), redis.duplicate()),
  });

  // Connections

  io.use((socket, next) => {
    socket.data.user = userOf(socket.handshake.auth.token);
    next(socket.data.user ? undefined : new Error("token"));
  });

  io.on("connection", (socket) => {
    const { user } = socket.data;
    // Before anything is awaited: a send may follow the welcome at once.
    socket.on("send", (message, acknowledge) => {
      send(user, message).then(acknowledge, (error) => acknowledge({ ok: false, code: failed(error) }));
    });
    // Whatever stands in the inbox now was emitted to this socket.
    socket.on("disconnect", () => redis.del(`inbox:${user.id}`).catch(failed));
    socket.join(`user:${user.id}`);
    comeBack(socket, user).catch(failed);
  });

  async function comeBack(socket, user) {
    const inbox = `inbox:${user.id}`;
    const [groups, waiting] = await Promise.all([redis.smembers(`groups:${user.id}`), redis.lrange(inbox, 0, -1)]);
    if (groups.length > 0) socket.join(groups.map((group) => `group:${group}`));
    for (const message of waiting) socket.emit("message", JSON.parse(message));
    if (waiting.length > 0) await redis.ltrim(inbox, waiting.length, -1);
  }

  // Sends. `{ ok: true, id }`, or `{ ok: false, code }`

  function send(user, { target, chatType, type, data }) {
    if (!Number.isInteger(target) || typeof data !== "string") return Promise.resolve({ ok: false, code: "invalid" });
    const message = {
      id: crypto.randomUUID(),
      chatType,
      from: user,
      to: { id: target },
      type,
      data,
      createdAtMs: Date.now(),
    };
    return chatType === "group" ? sendToGroup(user, target, message) : sendToFriend(user, target, message);
  }

  async function sendToFriend(user, target, message) {
    const [[name, avatar, active], isFriend] = await Promise.all([
      redis.hmget(`user:${target}`, "name", "avatar", "active"),
      redis.sismember(`friends:${target}`, user.id),
    ]);
    if (active !== "1") return { ok: false, code: "no_recipient" };
    if (!isFriend) return { ok: false, code: "no_friend" };
    message.to = { id: target, name, avatar };
    const text = JSON.stringify(message);
    await Promise.all([
      redis.rpush(`history:${user.id}:${target}`, text),
      redis.rpush(`history:${target}:${user.id}`, text),
      redis.rpush(`inbox:${target}`, text),
    ]);
    io.to(`user:${target}`).emit("message", message);
    return { ok: true, id: message.id };
  }

  async function sendToGroup(user, target, message) {
    const members = await redis.smembers(`members:${target}`);
    const own = String(user.id);
    if (!members.includes(own)) return { ok: false, code: "no_member" };
    const inboxes = members.filter((member) => member !== own).map((member) => `inbox:${member}`);
    await redis.appendToAll(1 + inboxes.length, `history:group:${target}`, ...inboxes, JSON.stringify(message));
    io.to(`group:${target}`).except(`user:${own}`).emit("message", message);
    return { ok: true, id: message.id };
  }

  // The same by HTTP: `POST /send`, its token in a header

  async function answer(request, body, response) {
    const user = userOf(request.headers.token);
    let status = 404;
    let result = { ok: false, code: "no_route" };
    if (request.method === "POST" && request.url === "/send") {
      try {
        result = user ? await send(user, JSON.parse(body)) : { ok: false, code: "token" };
        status = result.ok ? 200 : 403;
      } catch (error) {
        result = { ok: false, code: failed(error) };
        status = 500;
      }
    }
    const text = JSON.stringify(result);
    response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) });
    response.end(text);
  }

  server.listen(Number(process.env.PORT), "127.0.0.1", BACKLOG);
}

// A token is `<base64url of the user as JSON>.<HMAC-SHA256 of that, base64url>`. Nothing for one that is not ours.
function userOf(token) {
  const [payload, signature] = String(token).split(".");
  const given = Buffer.from(signature ?? "", "base64url");
  const expected = crypto.createHmac("sha256", process.env.SECRET).update(payload).digest();
  if (given.length !== expected.length || !crypto.timingSafeEqual(given, expected)) return undefined;
  return JSON.parse(Buffer.from(payload, "base64url").toString());
}

function receive(request, onBody) {
  const parts = [];
  let length = 0;
  request.on("data", (part) => {
    length += part.length;
    if (length > MAX_BODY_BYTES) request.destroy();
    else parts.push(part);
  });
  request.on("end", () => onBody(Buffer.concat(parts).toString()));
}

function failed(error) {
  console.error(error);
  return "failed";
}
