// @ts-check
/** What is looked at, and the address that says so: a link reproduces a view. */

/** @typedef {import("./viewer.js").XY} XY */
/** @typedef {import("./viewer.js").XYXY} XYXY */
/** @typedef {import("./mark.js").Mask} Mask */
/** @typedef {import("./mark.js").Parts} Parts */
/** @typedef {{ photo: string } | { upload: string }} Source */
/** @typedef {{ source: Source | null, parts: Parts, where: string, offset: number, pair: string | null, contrast: [string, string] | null }} View */

const ID = /^[0-9a-f]{32}$/;

/** @param {View} view */
export function addressOf({ source, parts, where, offset, pair, contrast }) {
  const to = new URLSearchParams();
  if (source && "photo" in source) to.set("photo", source.photo);
  if (source && "upload" in source) to.set("upload", source.upload);
  for (const box of parts.boxes) to.append("box", box.join(","));
  for (const xy of parts.points) to.append("point", xy.join(","));
  for (const { size_wh, runs } of parts.masks)
    to.append("mask", `${size_wh.join("x")}.${runs.map((run) => run.toString(36)).join(".")}`);
  for (const box of parts.without) to.append("without", box.join(","));
  if (where) to.set("where", where);
  if (offset && !source) to.set("from", String(offset));
  if (pair) to.set("pair", pair);
  if (contrast) to.set("contrast", contrast.join(","));
  return `#${to}`.replaceAll("%2C", ",");
}

/** What an address says; whatever is no part of a view is left out. @param {string} hash @returns {View} */
export function viewOf(hash) {
  const of = new URLSearchParams(hash.slice(1));
  /** @param {string} name */
  const id = (name) => (ID.test(of.get(name) ?? "") ? of.get(name) : null);
  const [photo, upload] = [id("photo"), id("upload")];
  const source = photo ? { photo } : upload ? { upload } : null;
  const both = (of.get("contrast") ?? "").split(",");
  const offset = Number(of.get("from"));
  return {
    source,
    parts: {
      boxes: /** @type {XYXY[]} */ (numbers(of.getAll("box"), 4)),
      points: /** @type {XY[]} */ (numbers(of.getAll("point"), 2)),
      masks: of.getAll("mask").flatMap(maskOf),
      without: /** @type {XYXY[]} */ (numbers(of.getAll("without"), 4)),
    },
    where: of.get("where") ?? "",
    offset: Number.isSafeInteger(offset) && offset > 0 ? offset : 0,
    pair: source && id("pair"),
    contrast:
      source && both.length === 2 && both[0] !== both[1] && both.every((one) => ID.test(one))
        ? [both[0], both[1]]
        : null,
  };
}

/** @param {string[]} texts @param {number} count */
function numbers(texts, count) {
  return texts
    .map((text) => text.split(",").map((part) => (part.trim() ? Number(part) : NaN)))
    .filter((found) => found.length === count && found.every(Number.isFinite));
}

/** @param {string} text @returns {Mask[]} */
function maskOf(text) {
  const [size, ...rest] = text.split(".");
  const [width, height] = size.split("x").map(Number);
  const runs = rest.map((run) => (/^[0-9a-z]+$/.test(run) ? parseInt(run, 36) : NaN));
  const whole = runs.reduce((sum, run) => sum + run, 0) === width * height;
  return whole && width > 0 && height > 0 && Math.max(width, height) <= 512
    ? [{ size_wh: [width, height], runs }]
    : [];
}
