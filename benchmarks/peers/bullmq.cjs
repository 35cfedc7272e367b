// BullMQ on Node: a process per slot. One job per model by a lock of the usual recipe, else delayed (BENCH_LOCK is 1);
// or by a queue per model with a global concurrency of 1, where all models are known beforehand (BENCH_LOCK is queue).
"use strict";

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const { DelayedError, Queue, Worker } = require("bullmq");
const IORedis = require("ioredis");

const URL = process.env.BENCH_BROKER;
const FOLDER = process.env.BENCH_FOLDER;
const LOCK = process.env.BENCH_LOCK === "1";
const QUEUE_PER_MODEL = process.env.BENCH_LOCK === "queue";
const BEGIN = process.env.BENCH_BEGIN === "1";
const QUEUE = "bench";
const LOCK_TTL = 120_000;
const AGAIN_MS = 100;
// Starts of single calls are told up to this number of jobs.
const DETAILS = 1000;

const [role, name, slots] = process.argv.slice(2);
const connection = () => new IORedis(URL, { maxRetriesPerRequest: null });
// Node's clock is CLOCK_MONOTONIC, which all processes of the machine share.
const now = () => process.hrtime.bigint();
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const files = new Map();
function write(kind, number, began) {
  if (!files.has(kind)) {
    files.set(kind, fs.openSync(path.join(FOLDER, "trace", `${kind}-${process.pid}`), "a", 0o600));
  }
  const digits = (value, width) => String(value).padStart(width, "0");
  const parts = [digits(number, 10), digits(began, 20), digits(now(), 20), digits(process.pid, 10)];
  fs.writeSync(files.get(kind), parts.join(" ") + "\n");
}

async function run({ number, ms, crash }) {
  const began = now();
  if (BEGIN) write("begun", number, began);
  const mark = path.join(FOLDER, `crash-${number}`);
  const again = crash && fs.existsSync(mark);
  if (crash) fs.writeFileSync(mark, "");
  if (ms && !again) await sleep(ms);
  write("ran", number, began);
}

function listen(name, work) {
  const worker = new Worker(name, work, { connection: connection(), concurrency: 1 });
  worker.on("error", (error) => console.error(error.message));
  return worker;
}

// Each model is served by one process of each worker, as soon as its queue is announced.
async function serve(index, slots) {
  const [redis, news] = [connection(), connection()];
  const served = new Set();
  const start = async (model) => {
    if (served.has(model) || Number(model.match(/\d+$/)[0]) % slots !== index) return;
    served.add(model);
    await listen(`${QUEUE}-${model}`, (job) => run(job.data)).waitUntilReady();
    await redis.incr(`serving:${model}`);
  };
  news.on("message", (_, model) => start(model));
  await news.subscribe("models");
  for (const model of await redis.smembers("models")) await start(model);
}

// The models of all workloads, known beforehand: frozen workers could not hear of them.
const KNOWN = [
  ...[...Array(10).keys()].map((i) => `m${i}`),
  "busy0",
  ...[...Array(50).keys()].map((i) => `free${i}`),
];

// Of the producer alone.
const shared = role === "producer" ? connection() : null;
const queues = new Map();
async function queueOf(model) {
  if (!queues.has(model)) {
    const queue = new Queue(`${QUEUE}-${model}`, { connection: shared });
    await queue.setGlobalConcurrency(1);
    queues.set(model, queue);
  }
  return queues.get(model);
}

// Announces the models of a batch, and returns once all workers serve them.
async function announce(models) {
  const workers = fs.readdirSync(path.join(FOLDER, "ready")).length;
  for (const model of models) {
    await queueOf(model);
    await shared.sadd("models", model);
    await shared.publish("models", model);
  }
  for (const model of models) {
    while (Number(await shared.get(`serving:${model}`)) < workers) await sleep(5);
  }
}

function slot() {
  const redis = connection();
  const work = async (job, token) => {
    if (!LOCK) return run(job.data);
    const key = `lock:${job.data.model}`;
    if ((await redis.set(key, token, "PX", LOCK_TTL, "NX")) === null) {
      write("refused", job.data.number, now());
      await job.moveToDelayed(Date.now() + AGAIN_MS, token);
      throw new DelayedError();
    }
    try {
      await run(job.data);
    } finally {
      await redis.del(key);
    }
  };
  listen(QUEUE, work);
}

function main(name, slots) {
  for (let i = 0; i < slots; i += 1) {
    spawn(process.execPath, [__filename, "slot", String(i), String(slots)], { stdio: "inherit" });
  }
  fs.writeFileSync(path.join(FOLDER, "ready", name), "");
}

async function submit(queue, batch) {
  const modelOf = (i) => `${batch.prefix}${i % batch.models}`;
  if (QUEUE_PER_MODEL) {
    const count = Math.min(batch.models, batch.count);
    await announce([...KNOWN, ...[...Array(count).keys()].map(modelOf)].filter((m) => !queues.has(m)));
  }
  const starts = [];
  const took = [];
  const cpu = process.cpuUsage();
  let due = now();
  for (let i = 0; i < batch.count; i += 1) {
    if (batch.every) {
      const left = Number(due - now()) / 1e6;
      if (left > 0) await sleep(left);
      due += BigInt(Math.round(batch.every * 1e9));
    }
    const model = modelOf(i);
    const target = QUEUE_PER_MODEL ? queues.get(model) : queue;
    const start = now();
    await target.add("work", { number: batch.first + i, model, ms: batch.ms, crash: batch.crash });
    took.push(Number(now() - start));
    starts.push(start);
  }
  const ended = starts[starts.length - 1] + BigInt(took[took.length - 1]);
  took.sort((a, b) => a - b);
  const quantile = (share) => took[Math.max(0, Math.ceil(share * took.length) - 1)] / 1e3;
  const used = process.cpuUsage(cpu);
  const calls = batch.count <= DETAILS ? starts : [];
  // Nanoseconds have more digits than a number of JavaScript holds: they are written as they are.
  return (
    `{"began": ${starts[0]}, "ended": ${ended}, "calls": [${calls.join(", ")}], ` +
    `"p50_us": ${quantile(0.5)}, "p99_us": ${quantile(0.99)}, ` +
    `"cpu": ${(used.user + used.system) / 1e6}}`
  );
}

async function produce() {
  const queue = new Queue(QUEUE, { connection: shared });
  await queue.waitUntilReady();
  console.log('{"ready": true}');
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(await submit(queue, JSON.parse(line)));
  }
  process.exit(0);
}

if (role === "worker") main(name, Number(slots));
else if (role === "slot" && QUEUE_PER_MODEL) serve(Number(name), Number(slots));
else if (role === "slot") slot();
else produce();
