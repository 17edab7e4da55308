// The page: a picture from a file, a drop or the camera goes through the model, and what is found is drawn.

import * as ort from "./ort.wasm.min.mjs";
import * as model from "./model.mjs";

const MAX_BYTES = 64 * 2 ** 20; // of a file
const MAX_PIXELS = 2 ** 24; // larger pictures are made smaller before anything else
const MAX_SHOWN = 1024; // longest side of a map of classes
const MAX_THREADS = 4;
const TOP = 5; // classes of a classifier
const MIN_SHOWN = 480; // longest side of a picture, which is enlarged below that
const DOUBTFUL = 0.2; // score of a joint below which it is not drawn

const $ = (id) => document.getElementById(id);
const about = JSON.parse($("about").textContent);
const seen = about.preprocessing;
const name = (label) => about.titles[about.classes?.[label]] ?? about.classes?.[label] ?? String(label);
const css = (label) => `rgb(${model.colour(label).join(" ")})`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

const [, , H, W] = about.inputs[0].shape;
const fixed = typeof H === "number" && typeof W === "number" ? [H, W] : null; // where images can have no other size
if (seen.input_size && fixed) seen.input_size = [3, H, W];

/** What each task makes of a picture (``run``), and what it says and draws of that (``show``), in a unit of lines. */
const TASKS = {
  classification: {
    async run(picture) {
      const { image, height, width } = model.classified(picture, seen);
      const outputs = await infer(image, height, width);
      return model.ranked(outputs[session.outputNames[0]].data);
    },
    show(found) {
      const labels = found.slice(0, TOP).map(({ label, score }) => ({ class: name(label), score }));
      list(labels.map((one) => ({ name: one.class, score: one.score })));
      return { answer: { labels }, words: `${labels[0].class} ${percent(labels[0].score)}` };
    },
  },
  detection: {
    async run(picture) {
      const { image, height, width, seen: part } = model.whole(picture, seen, fixed);
      return { outputs: await infer(image, height, width), part };
    },
    show({ outputs, part }, picture, pen, unit) {
      const found = model.objects(outputs, part, picture, Number($("threshold").value));
      for (const one of found.toReversed()) {
        if (one.mask) drawMask(pen, model.pasted(one.mask, one.box, picture), model.colour(one.label));
      }
      for (const one of found.toReversed()) drawBox(pen, one, picture, unit);
      list(found.map(({ label, score }) => ({ name: name(label), score, swatch: css(label) })));
      const answer = {
        boxes: found.map(({ box }) => box),
        labels: found.map(({ label }) => name(label)),
        scores: found.map(({ score }) => score),
      };
      return { answer, words: counted(answer.labels) };
    },
  },
  segmentation: {
    async run(picture) {
      const { image, height, width, seen: part } = model.whole(picture, seen, fixed);
      const { logits } = await infer(image, height, width);
      const scale = Math.min(1, MAX_SHOWN / Math.max(picture.width, picture.height));
      const [h, w] = [picture.height, picture.width].map((side) => Math.max(1, Math.round(side * scale)));
      return { classes: model.likeliest(logits, part, h, w), h, w };
    },
    show({ classes, h, w }, picture, pen) {
      const counts = new Map();
      for (const label of classes) counts.set(label, (counts.get(label) ?? 0) + 1);
      const order = [...counts].sort((a, b) => b[1] - a[1]).map(([label, count]) => [label, count / classes.length]);
      const overlay = new OffscreenCanvas(w, h);
      const pixels = new ImageData(w, h);
      const colours = new Map(order.map(([label]) => [label, model.colour(label)]));
      classes.forEach((label, i) => pixels.data.set([...colours.get(label), 128], 4 * i));
      overlay.getContext("2d").putImageData(pixels, 0, 0);
      pen.imageSmoothingEnabled = false;
      pen.drawImage(overlay, 0, 0, picture.width, picture.height);
      list(order.map(([label, share]) => ({ name: name(label), score: share, swatch: css(label) })));
      const shares = Object.fromEntries(order.map(([label, share]) => [name(label), share]));
      return { answer: { shares }, words: order.slice(0, 3).map(([l, share]) => `${name(l)} ${percent(share)}`).join(", ") };
    },
  },
  keypoints: {
    async run(picture) {
      const crop = model.body(picture, seen, [0, 0, picture.width, picture.height]);
      const flipped = about.decoding.flip_test ? model.mirrored(crop) : null;
      const { heatmaps } = await infer(crop.image, crop.height, crop.width);
      let maps = heatmaps.data;
      const [, K, h, w] = heatmaps.dims;
      if (flipped) {
        const other = (await infer(flipped, crop.height, crop.width)).heatmaps;
        maps = model.averaged(maps, other.data, about.decoding.mirror, h, w);
      }
      return model.joints(maps, K, h, w, about.decoding, crop.matrix);
    },
    show(found, picture, pen, unit) {
      drawBody(pen, found, unit);
      list(found.map(({ score }, joint) => ({ name: name(joint), score })));
      const clear = found.filter(({ score }) => score >= DOUBTFUL).length;
      const answer = { joints: about.classes, keypoints: [found.map(({ x, y, score }) => [x, y, score])] };
      return { answer, words: `${clear} of ${found.length} joints` };
    },
  },
};

const task = TASKS[about.task];
let session;
let last; // the picture that is shown, its bitmap, and what was found in it
let live = null; // the camera's stream
let starting = false; // while a person is asked for it
let busy = Promise.resolve();

async function infer(image, height, width) {
  const images = new ort.Tensor("float32", image, [1, 3, height, width]);
  return session.run({ [session.inputNames[0]]: images });
}

// What is shown

function list(rows) {
  const items = rows.map(({ name, score, swatch }) => {
    const item = document.createElement("li");
    const add = (tag, type, text = "") => {
      const part = item.appendChild(document.createElement(tag));
      part.className = type;
      part.textContent = text;
      return part;
    };
    if (swatch) add("span", "swatch").style.background = swatch;
    add("span", "name", name);
    const bar = add("meter", "bar");
    bar.value = score;
    bar.setAttribute("aria-hidden", "true"); // the number says it
    add("span", "score", percent(score));
    return item;
  });
  $("list").replaceChildren(...items);
}

function counted(labels) {
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].map(([label, count]) => `${count} ${label}`).join(", ") || "nothing";
}

function drawMask(pen, area, colour) {
  if (!area.width || !area.height) return;
  const cover = new OffscreenCanvas(area.width, area.height);
  const pixels = new ImageData(area.width, area.height);
  area.data.forEach((inside, i) => inside && pixels.data.set([...colour, 128], 4 * i));
  cover.getContext("2d").putImageData(pixels, 0, 0);
  pen.drawImage(cover, area.left, area.top);
}

function drawBox(pen, { box: [x1, y1, x2, y2], label, score }, picture, unit) {
  const [line, size] = [2 * unit, 14 * unit];
  const text = `${name(label)} ${score.toFixed(2)}`;
  pen.strokeStyle = pen.fillStyle = css(label);
  pen.lineWidth = line;
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  pen.font = `${size}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  const [width, height] = [pen.measureText(text).width + 2 * line, 1.2 * size];
  const x = Math.max(0, Math.min(x1, picture.width - width));
  const y = y1 >= height ? y1 - height : y1;
  pen.fillRect(x, y, width, height);
  const [red, green, blue] = model.colour(label);
  pen.fillStyle = 0.299 * red + 0.587 * green + 0.114 * blue > 128 ? "black" : "white";
  pen.fillText(text, x + line, y + 0.1 * size);
}

function drawBody(pen, found, unit) {
  const clear = found.map(({ score }) => score >= DOUBTFUL);
  pen.strokeStyle = "white";
  pen.lineWidth = 1.5 * unit;
  for (const [one, other] of about.decoding.skeleton) {
    if (!clear[one] || !clear[other]) continue;
    pen.beginPath();
    pen.moveTo(found[one].x + 0.5, found[one].y + 0.5);
    pen.lineTo(found[other].x + 0.5, found[other].y + 0.5);
    pen.stroke();
  }
  pen.fillStyle = css(0);
  found.forEach(({ x, y }, joint) => {
    if (!clear[joint]) return;
    pen.beginPath();
    pen.arc(x + 0.5, y + 0.5, 4 * unit, 0, 2 * Math.PI);
    pen.fill();
  });
}

function show() {
  const { picture, bitmap, found } = last;
  const canvas = $("canvas");
  $("result").hidden = false;
  const zoom = Math.max(1, Math.floor(MIN_SHOWN / Math.max(picture.width, picture.height)));
  [canvas.width, canvas.height] = [zoom * picture.width, zoom * picture.height];
  const unit = picture.width / canvas.clientWidth; // pixels of the picture in one of the page, for lines and text
  const pen = canvas.getContext("2d");
  pen.scale(zoom, zoom);
  pen.imageSmoothingEnabled = zoom === 1;
  pen.drawImage(bitmap, 0, 0, picture.width, picture.height);
  const { answer, words } = task.show(found, picture, pen, unit);
  canvas.setAttribute("aria-label", `The picture, in which is found: ${words}`);
  $("json").textContent = JSON.stringify({ height: picture.height, width: picture.width, ...answer }, null, 1);
  return words;
}

// Where pictures come from

/** A picture and its bitmap; it is made smaller where it has too many pixels. */
function opened(bitmap) {
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height)));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.floor(side * scale)));
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0, width, height);
  return { picture: model.fromCanvas(pen.getImageData(0, 0, width, height)), smaller: scale < 1 };
}

async function look(bitmap) {
  const started = performance.now();
  const { picture, smaller } = opened(bitmap);
  const found = await task.run(picture);
  last?.bitmap.close();
  last = { picture, bitmap, found };
  const words = show();
  const size = smaller ? `, made smaller to ${picture.width} x ${picture.height}` : "";
  $("times").textContent = `${Math.round(performance.now() - started)} ms from picture to result${size}`;
  return words;
}

/** One after the other; what goes wrong is said. */
function after(work) {
  busy = busy.then(work).catch((error) => {
    $("error").textContent = error.message;
    $("status").textContent = "";
  });
  return busy;
}

function take(file) {
  stop();
  return after(async () => {
    $("error").textContent = "";
    if (file.size > MAX_BYTES) throw new Error(`${file.name} has more than ${MAX_BYTES / 2 ** 20} MiB`);
    $("status").textContent = `Looking at ${file.name} ...`;
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    } catch {
      throw new Error(`${file.name} is no picture that this browser reads`);
    }
    $("status").textContent = `${file.name}: ${await look(bitmap)}`;
  });
}

async function start() {
  $("error").textContent = "";
  if (!navigator.mediaDevices) throw new Error("the camera needs https, or localhost");
  try {
    live = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    throw new Error(`no camera: ${error.message}`);
  }
  const video = $("video");
  video.srcObject = live;
  await video.play();
  $("camera").textContent = "Stop the camera";
  $("status").textContent = "Camera"; // not each picture's result, which a screen reader would never end to say
  while (live) {
    await look(await createImageBitmap(video));
    await new Promise(requestAnimationFrame);
  }
  $("status").textContent = "The camera is off";
}

function stop() {
  live?.getTracks().forEach((track) => track.stop());
  live = null;
  $("video").srcObject = null;
  $("camera").textContent = "Use the camera";
}

async function load() {
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.proxy = true; // in a worker, so that the page answers meanwhile
  ort.env.logLevel = "error";
  $("status").textContent = "Loading the model ...";
  $("progress").hidden = false;
  const answer = await fetch("model.onnx");
  if (!answer.ok) throw new Error(`model.onnx: the server answered ${answer.status}`);
  const parts = [];
  let count = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    count += value.length;
    $("progress").value = Math.min(1, count / about.bytes);
  }
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  $("progress").hidden = true;
  $("status").textContent = "Ready";
  $("threshold-row").hidden = about.task !== "detection";
  $("file").disabled = $("camera").disabled = false;
}

$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) take(file);
  event.target.value = ""; // so that the same file can be chosen again
});
$("camera").addEventListener("click", async () => {
  if (live) return stop();
  if (starting) return; // a person is still asked
  starting = true;
  await after(start);
  starting = false;
  stop();
});
$("threshold").addEventListener("input", (event) => {
  $("threshold-value").textContent = Number(event.target.value).toFixed(2);
  if (last) show();
});
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop" && session && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}
after(load);
