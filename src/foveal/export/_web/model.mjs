// From pictures to images and from outputs to predictions, as foveal.runtime does it in numpy and Pillow.
//
// A picture is {width, height, data}, RGB bytes row by row. An image is Float32Array [3, H, W]. Functions have the names
// of those in Python that they follow.

const PRECISION = 2 ** 22; // of Pillow's filter weights for bytes
const EPSILON = 1e-10; // what the logarithm of a heatmap is taken of, at least

const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/** Python's round: halves go to the even neighbour. */
function round(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2 ? 1 : 0) : Math.round(x);
}

const clip = (x, low, high) => Math.min(Math.max(x, low), high);

/** RGBA bytes of a canvas -> a picture; transparency is left out. */
export function fromCanvas({ width, height, data }) {
  const rgb = new Uint8Array(3 * width * height);
  for (let i = 0, j = 0; j < rgb.length; i += 4, j += 3) {
    rgb[j] = data[i];
    rgb[j + 1] = data[i + 1];
    rgb[j + 2] = data[i + 2];
  }
  return { width, height, data: rgb };
}

/** First pixel and weights of each position along a side, as Pillow has them. */
function weights(before, after, [reach, filter]) {
  const scale = before / after;
  const wide = Math.max(scale, 1);
  return Array.from({ length: after }, (_, i) => {
    const middle = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - reach * wide + 0.5));
    const last = Math.min(before, Math.trunc(middle + reach * wide + 0.5));
    const values = [];
    for (let x = first; x < last; x++) values.push(filter((x - middle + 0.5) / wide));
    const sum = values.reduce((a, b) => a + b, 0);
    const fixed = values.map((value) => {
      const part = (value / sum) * PRECISION;
      return Math.trunc(part < 0 ? part - 0.5 : part + 0.5);
    });
    return [first, fixed];
  });
}

/** A picture of another size, byte for byte as Pillow's ``resize`` gives it. */
export function resized(picture, width, height, interpolation) {
  if (interpolation === "nearest") return nearest(picture, width, height);
  const filter = FILTERS[interpolation];
  if (!filter) throw new Error(`unknown interpolation ${interpolation}`);
  let { data } = picture;
  if (width !== picture.width) {
    const columns = weights(picture.width, width, filter);
    const fresh = new Uint8ClampedArray(3 * width * picture.height);
    for (let y = 0, to = 0; y < picture.height; y++) {
      const row = 3 * y * picture.width;
      for (const [first, values] of columns) {
        for (let channel = 0; channel < 3; channel++, to++) {
          let sum = PRECISION / 2;
          for (let k = 0, from = row + 3 * first + channel; k < values.length; k++, from += 3) {
            sum += data[from] * values[k];
          }
          fresh[to] = Math.floor(sum / PRECISION);
        }
      }
    }
    data = fresh;
  }
  if (height !== picture.height) {
    const rows = weights(picture.height, height, filter);
    const line = 3 * width;
    const fresh = new Uint8ClampedArray(line * height);
    rows.forEach(([first, values], y) => {
      for (let x = 0; x < line; x++) {
        let sum = PRECISION / 2;
        for (let k = 0, from = first * line + x; k < values.length; k++, from += line) sum += data[from] * values[k];
        fresh[y * line + x] = Math.floor(sum / PRECISION);
      }
    });
    data = fresh;
  }
  return { width, height, data };
}

function nearest(picture, width, height) {
  const data = new Uint8Array(3 * width * height);
  const [rows, columns] = [middles(picture.height, height), middles(picture.width, width)];
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = 3 * (rows[y] * picture.width + columns[x]);
      for (let channel = 0; channel < 3; channel++) data[to++] = picture.data[from + channel];
    }
  }
  return { width, height, data };
}

/** The pixel below the middle of each; steps are added up, as Pillow does it, which decides at edges. */
function middles(before, after) {
  const places = [];
  for (let i = 0, at = before / after / 2; i < after; i++, at += before / after) places.push(Math.floor(at));
  return places;
}

/** Picture -> image [3, H, W] of a size that it fills from the upper left, zeros elsewhere. */
export function normalized(picture, mean, std, height = picture.height, width = picture.width) {
  const image = new Float32Array(3 * height * width);
  for (let channel = 0; channel < 3; channel++) {
    const scale = Math.fround(1 / (255 * std[channel]));
    const shift = Math.fround(-mean[channel] / std[channel]);
    for (let y = 0; y < picture.height; y++) {
      let from = 3 * y * picture.width + channel;
      let to = (channel * height + y) * width;
      for (let x = 0; x < picture.width; x++, from += 3) {
        image[to++] = Math.fround(picture.data[from] * scale) + shift;
      }
    }
  }
  return { image, height, width };
}

/** Height and width that a picture gets whose shorter and longest sides are given. */
export function fitted(height, width, shorter, longest) {
  let short = shorter;
  let long = Math.floor((shorter * Math.max(height, width)) / Math.min(height, width));
  if (long > longest) [short, long] = [Math.max(1, Math.floor((longest * short) / long)), longest];
  return height <= width ? [short, long] : [long, short];
}

/** What a classifier sees. */
export function classified(picture, config) {
  const [, H, W] = config.input_size;
  const scaled = [H, W].map((side) => Math.floor(side / config.crop_pct));
  const ratios = [picture.height / scaled[0], picture.width / scaled[1]];
  let fill = [0, 0, 0];
  let h, w;
  if (config.crop_mode === "squash") {
    [h, w] = scaled;
  } else if (config.crop_mode === "border") {
    [h, w] = [picture.height, picture.width].map((side) => round(side / Math.max(...ratios)));
    fill = config.mean.map((value) => round(255 * value));
  } else if (scaled[0] === scaled[1]) {
    [h, w] = fitted(picture.height, picture.width, scaled[0], Infinity);
  } else {
    [h, w] = [picture.height, picture.width].map((side) => round(side / Math.min(...ratios)));
  }
  return normalized(centre(resized(picture, w, h, config.interpolation), H, W, fill), config.mean, config.std);
}

/** The middle of a picture, with a border where it is smaller. */
function centre(picture, H, W, fill) {
  const outer = [Math.max(H, picture.height), Math.max(W, picture.width)];
  const [above, before] = [(outer[0] - picture.height) >> 1, (outer[1] - picture.width) >> 1];
  const [top, left] = [round((outer[0] - H) / 2), round((outer[1] - W) / 2)];
  const data = new Uint8Array(3 * H * W);
  for (let y = 0, to = 0; y < H; y++) {
    for (let x = 0; x < W; x++) {
      const [row, column] = [y + top - above, x + left - before];
      const inside = row >= 0 && column >= 0 && row < picture.height && column < picture.width;
      const from = 3 * (row * picture.width + column);
      for (let channel = 0; channel < 3; channel++) data[to++] = inside ? picture.data[from + channel] : fill[channel];
    }
  }
  return { width: W, height: H, data };
}

/** What a detector or a segmenter sees, and the part ``seen`` [h, w] that shows the picture; ``fixed`` is [H, W] or null. */
export function whole(picture, config, fixed) {
  let h, w;
  if (config.square) {
    [h, w] = fixed ?? [config.image_size, config.image_size];
  } else if (fixed) {
    const scale = Math.min(fixed[0] / picture.height, fixed[1] / picture.width);
    h = Math.min(fixed[0], Math.max(1, round(picture.height * scale)));
    w = Math.min(fixed[1], Math.max(1, round(picture.width * scale)));
  } else {
    [h, w] = fitted(picture.height, picture.width, config.image_size, config.max_size);
  }
  const [H, W] = fixed ?? [h, w].map((side) => config.pad * Math.ceil(side / config.pad));
  return { ...normalized(resized(picture, w, h, "bilinear"), config.mean, config.std, H, W), seen: [h, w] };
}

/** What a keypoint estimator sees of a box, and the matrix from places in it to those in the picture. */
export function body(picture, config, [x1, y1, x2, y2]) {
  const [, H, W] = config.input_size;
  const step = config.padding * Math.max((x2 - x1) / W, (y2 - y1) / H);
  const matrix = [step, (x1 + x2) / 2 - (step * W) / 2, (y1 + y2) / 2 - (step * H) / 2]; // x and y: factor and shifts
  const fill = config.mean.map((value) => round(255 * value));
  return { ...normalized(warped(picture, matrix, H, W, fill), config.mean, config.std), matrix };
}

/** What a factor and shifts show of a picture: bilinear, behind means over squares where it gets smaller than half. */
function warped(picture, [step, right, down], H, W, fill) {
  const times = Math.trunc(step);
  if (times > 1) {
    const ends = [right, down, right + step * W, down + step * H];
    const [x1, y1] = [Math.max(0, Math.floor(ends[0] - times)), Math.max(0, Math.floor(ends[1] - times))];
    const x2 = Math.min(picture.width, Math.ceil(ends[2] + times));
    const y2 = Math.min(picture.height, Math.ceil(ends[3] + times));
    if (x2 > x1 && y2 > y1) {
      picture = reduced(picture, times, x1, y1, x2, y2);
      [step, right, down] = [step / times, (right - x1) / times, (down - y1) / times];
    }
  }
  const data = new Uint8Array(3 * H * W);
  const { width, height } = picture;
  for (let y = 0, to = 0; y < H; y++) {
    for (let x = 0; x < W; x++) {
      const [column, row] = [step * (x + 0.5) + right, step * (y + 0.5) + down];
      const inside = column >= 0 && row >= 0 && column < width && row < height;
      const [left, top] = [Math.floor(column - 0.5), Math.floor(row - 0.5)];
      const [dx, dy] = [column - 0.5 - left, row - 0.5 - top];
      const columns = [clip(left, 0, width - 1), clip(left + 1, 0, width - 1)];
      const rows = [clip(top, 0, height - 1), clip(top + 1, 0, height - 1)].map((line) => line * width);
      for (let channel = 0; channel < 3; channel++) {
        if (!inside) {
          data[to++] = fill[channel];
          continue;
        }
        const [a, b, c, d] = rows.flatMap((line) => columns.map((place) => picture.data[3 * (line + place) + channel]));
        const [above, below] = [a + (b - a) * dx, c + (d - c) * dx];
        data[to++] = above + (below - above) * dy;
      }
    }
  }
  return { width: W, height: H, data };
}

/** Means over squares of a part of a picture. */
function reduced(picture, step, x1, y1, x2, y2) {
  const [width, height] = [Math.ceil((x2 - x1) / step), Math.ceil((y2 - y1) / step)];
  const data = new Uint8Array(3 * width * height);
  for (let y = 0, to = 0; y < height; y++) {
    const [top, bottom] = [y1 + y * step, Math.min(y2, y1 + (y + 1) * step)];
    for (let x = 0; x < width; x++) {
      const [left, right] = [x1 + x * step, Math.min(x2, x1 + (x + 1) * step)];
      const count = (bottom - top) * (right - left);
      for (let channel = 0; channel < 3; channel++) {
        let sum = count >> 1;
        for (let row = top; row < bottom; row++) {
          for (let column = left; column < right; column++) sum += picture.data[3 * (row * picture.width + column) + channel];
        }
        data[to++] = sum / count;
      }
    }
  }
  return { width, height, data };
}

/** Logits -> places and probabilities of classes, from high to low. */
export function ranked(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const powers = Array.from(logits, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b);
  if (!Number.isFinite(sum)) throw new Error("the model gives scores that are not finite");
  return powers.map((power, label) => ({ label, score: power / sum })).sort((a, b) => b.score - a.score);
}

/** Outputs of a detector -> boxes in pixels of the picture, scores, labels, and the small masks. */
export function objects(outputs, [h, w], picture, threshold) {
  const found = [];
  const [fx, fy] = [picture.width / w, picture.height / h];
  const { boxes, scores, labels, pictures, masks } = outputs;
  scores.data.forEach((score, i) => {
    if (score < threshold || Number(pictures.data[i]) !== 0) return;
    const [x1, y1, x2, y2] = boxes.data.subarray(4 * i, 4 * i + 4);
    const box = [Math.min(x1, w) * fx, Math.min(y1, h) * fy, Math.min(x2, w) * fx, Math.min(y2, h) * fy];
    const one = { box, score, label: Number(labels.data[i]) };
    if (masks) {
      const side = masks.dims.at(-1);
      one.mask = { side, data: masks.data.subarray(i * side * side, (i + 1) * side * side) };
    }
    found.push(one);
  });
  return found;
}

/** Values [h, w] -> a function that gives a row of [H, W], bilinear between the middles of pixels. */
function enlarged(values, h, w, H, W, start = 0) {
  const place = (i, before, after) => {
    const exact = Math.max((i + 0.5) * (before / after) - 0.5, 0);
    const low = Math.min(Math.floor(exact), before - 1);
    return [low, Math.min(low + 1, before - 1), exact - low];
  };
  const columns = Array.from({ length: W }, (_, x) => place(x, w, W));
  const row = new Float32Array(W);
  return (y) => {
    const [above, below, share] = place(y, h, H);
    const [first, second] = [start + above * w, start + below * w];
    for (let x = 0; x < W; x++) {
      const [left, right, part] = columns[x];
      const a = values[first + left] * (1 - share) + values[second + left] * share;
      const b = values[first + right] * (1 - share) + values[second + right] * share;
      row[x] = a * (1 - part) + b * part;
    }
    return row;
  };
}

/** The mask of an object in its picture: left, top, width, height and its bytes 0 and 1. */
export function pasted({ side, data }, [x1, y1, x2, y2], picture) {
  const framed = new Float32Array((side + 2) ** 2);
  for (let y = 0; y < side; y++) {
    framed.set(data.subarray(y * side, (y + 1) * side), (y + 1) * (side + 2) + 1); // the border belongs to the mask
  }
  const grow = (side + 2) / side;
  const [halfX, halfY] = [((x2 - x1) / 2) * grow, ((y2 - y1) / 2) * grow];
  const ends = [(x1 + x2) / 2 - halfX, (y1 + y2) / 2 - halfY, (x1 + x2) / 2 + halfX, (y1 + y2) / 2 + halfY];
  const [left, top, right, bottom] = ends.map(Math.trunc);
  const [H, W] = [Math.max(1, bottom - top + 1), Math.max(1, right - left + 1)];
  const row = enlarged(framed, side + 2, side + 2, H, W);
  const area = { left: Math.max(left, 0), top: Math.max(top, 0) };
  area.width = Math.max(0, Math.min(right + 1, picture.width) - area.left);
  area.height = Math.max(0, Math.min(bottom + 1, picture.height) - area.top);
  area.data = new Uint8Array(area.width * area.height);
  for (let y = 0; y < area.height; y++) {
    const values = row(y + area.top - top);
    for (let x = 0; x < area.width; x++) area.data[y * area.width + x] = values[x + area.left - left] > 0.5;
  }
  return area;
}

/** Logits [1, K, h, w], of which the part ``seen`` shows the picture -> the class at each place [H, W]. */
export function likeliest({ data, dims }, [h, w], H, W) {
  const [, K, height, width] = dims;
  const best = new Float32Array(H * W).fill(-Infinity);
  const classes = new Uint16Array(H * W);
  for (let label = 0; label < K; label++) {
    const part = new Float32Array(h * w);
    for (let y = 0; y < h; y++) {
      const from = (label * height + y) * width;
      part.set(data.subarray(from, from + w), y * w);
    }
    const row = enlarged(part, h, w, H, W);
    for (let y = 0, i = 0; y < H; y++) {
      const values = row(y);
      for (let x = 0; x < W; x++, i++) {
        if (values[x] > best[i]) [best[i], classes[i]] = [values[x], label];
      }
    }
  }
  return classes;
}

/** An image [3, H, W] seen in a mirror. */
export function mirrored({ image, height, width }) {
  const fresh = new Float32Array(image.length);
  for (let row = 0; row < 3 * height; row++) {
    for (let x = 0; x < width; x++) fresh[row * width + x] = image[(row + 1) * width - 1 - x];
  }
  return fresh;
}

/** The mean of heatmaps [K, h, w] and those of the mirrored image, in which joints have changed sides. */
export function averaged(maps, others, mirror, h, w) {
  const fresh = new Float32Array(maps.length);
  for (let joint = 0; joint < mirror.length; joint++) {
    for (let y = 0; y < h; y++) {
      const [row, other] = [(joint * h + y) * w, (mirror[joint] * h + y) * w];
      for (let x = 0; x < w; x++) fresh[row + x] = (maps[row + x] + others[other + w - 1 - x]) / 2;
    }
  }
  return fresh;
}

/** Heatmaps [K, h, w] -> place in the picture and score of each joint. */
export function joints(maps, K, h, w, decoding, [step, right, down]) {
  return Array.from({ length: K }, (_, joint) => {
    const map = maps.subarray(joint * h * w, (joint + 1) * h * w);
    let index = 0;
    for (let i = 1; i < map.length; i++) if (map[i] > map[index]) index = i;
    const [x, y] = [index % w, Math.floor(index / w)];
    const shift = decoding.method === "dark" ? darkShift(map, h, w, x, y, decoding.sigma) : quarterShift(map, h, w, x, y);
    const [px, py] = [x + shift[0], y + shift[1]].map((place) => decoding.stride * (place + 0.5));
    return { x: step * px + right - 0.5, y: step * py + down - 0.5, score: clip(map[index], 0, 1) };
  });
}

const within = (x, y, h, w, border) => x >= border && y >= border && x < w - border && y < h - border;

function quarterShift(map, h, w, x, y) {
  if (!within(x, y, h, w, 1)) return [0, 0];
  const at = (right, below) => map[(y + below) * w + x + right];
  return [0.25 * Math.sign(at(1, 0) - at(-1, 0)), 0.25 * Math.sign(at(0, 1) - at(0, -1))];
}

/** To the maximum of the Gaussian whose logarithm has the derivatives of the smoothed map's. */
function darkShift(map, h, w, x, y, sigma) {
  if (!within(x, y, h, w, 2)) return [0, 0];
  const reach = Math.ceil(2.5 * sigma);
  let kernel = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-((i - reach) ** 2) / (2 * sigma ** 2)));
  const sum = kernel.reduce((a, b) => a + b);
  kernel = kernel.map((value) => value / sum);
  const at = (right, below) => {
    let total = 0;
    for (let i = -reach; i <= reach; i++) {
      const row = y + below + i;
      if (row < 0 || row >= h) continue;
      for (let j = -reach; j <= reach; j++) {
        const column = x + right + j;
        if (column >= 0 && column < w) total += kernel[i + reach] * kernel[j + reach] * map[row * w + column];
      }
    }
    return Math.log(Math.max(total, EPSILON));
  };
  const middle = at(0, 0);
  const [dx, dy] = [(at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2];
  const dxx = (at(2, 0) - 2 * middle + at(-2, 0)) / 4;
  const dyy = (at(0, 2) - 2 * middle + at(0, -2)) / 4;
  const dxy = (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4;
  const determinant = dxx * dyy - dxy ** 2;
  if (!(determinant > 0 && dxx < 0)) return [0, 0];
  return [(dxy * dy - dyy * dx) / determinant, (dxy * dx - dxx * dy) / determinant].map((value) => clip(value, -1, 1));
}

/** Of a class, as foveal draws it. */
export function colour(label) {
  const hue = (label * 0.618034) % 1;
  const [saturation, value] = [label % 2 ? 0.85 : 0.65, label % 3 ? 1 : 0.8];
  return [5, 3, 1].map((n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  });
}
