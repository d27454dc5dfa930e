// @ts-check
/** The query, on which a region is drawn, points are clicked, and a mask is painted. */

import { CLICK_SLOP, Grid, clamp, find, write } from "./viewer.js";
import { drawAsked, placeView } from "./results.js";

/** @typedef {import("./viewer.js").XY} XY */
/** @typedef {import("./viewer.js").XYXY} XYXY */
/** @typedef {{ query: { photo?: string, upload?: string }, name: string, src: string, missing: boolean, size_wh: XY, view_xyxy: XYXY, grid_hw: XY }} Shown a query as the server shows it */
/** @typedef {{ size_wh: XY, runs: number[] }} Mask runs of 0 and 1 in turn, row by row */
/** @typedef {{ boxes: XYXY[], points: XY[], masks: Mask[], without: XYXY[] }} Parts what is asked for, and what is taken away */
/** @typedef {"this" | "and" | "not"} As what the next mark is */

/** @type {Parts} */
export const NOTHING = { boxes: [], points: [], masks: [], without: [] };
/** Longest side of a painted mask: several pixels to a cell of any network's last map. */
const MASK_SIDE = 96;
/** Radius of the brush, as a share of the longer side. */
const BRUSH = 0.045;

/** @param {Parts} parts */
export const isNothing = ({ boxes, points, masks, without }) =>
  !(boxes.length || points.length || masks.length || without.length);

const MARKUP = `
  <figure class="wr-query ms-figure">
    <figcaption><b>Query</b> <span></span></figcaption>
    <div class="wa-frame">
      <img alt="" draggable="false">
      <div class="wa-view"></div>
      <canvas class="ms-mask" aria-hidden="true"></canvas>
      <svg class="wa-overlay wr-marks" preserveAspectRatio="none" aria-hidden="true"></svg>
      <div class="ms-surface" tabindex="0" role="application" aria-roledescription="photograph to mark"></div>
      <p class="ms-gone" hidden>This photograph is gone or has changed since it was indexed.</p>
    </div>
  </figure>
  <div class="ms-tools">
    <fieldset class="wa-choice ms-with">
      <legend>Mark with</legend>
      <div class="wa-segments">
        <label class="wa-segment" title="Drag a box, click a point (B)"><input type="radio" name="ms-tool" value="box" checked><span>Box, point</span></label>
        <label class="wa-segment" title="Paint a mask (P)"><input type="radio" name="ms-tool" value="paint"><span>Brush</span></label>
      </div>
    </fieldset>
    <button type="button" class="ms-clear">Clear</button>
    <fieldset class="wa-choice">
      <legend>Search for</legend>
      <div class="wa-segments">
        <label class="wa-segment" title="Instead of what is marked"><input type="radio" name="ms-as" value="this" checked><span>this</span></label>
        <label class="wa-segment" title="As well as what is marked (hold Shift)"><input type="radio" name="ms-as" value="and"><span>and this</span></label>
        <label class="wa-segment" title="Take this away (hold Alt)"><input type="radio" name="ms-as" value="not"><span>not this</span></label>
      </div>
    </fieldset>
  </div>`;

/**
 * Builds the query's figure and its tools inside an element.
 * @param {HTMLElement} element
 * @param {(parts: Parts, done: boolean) => void} changed is told while a mark is drawn, and when it is done
 */
export function mountMark(element, changed) {
  element.innerHTML = MARKUP;
  const figure = find(element, ".ms-figure", HTMLElement);
  const image = find(element, "img", HTMLImageElement);
  const surface = find(element, ".ms-surface", HTMLElement);
  const marks = find(element, ".wr-marks", SVGElement);
  const painted = find(element, ".ms-mask", HTMLCanvasElement);
  const gone = find(element, ".ms-gone", HTMLElement);
  const clear = find(element, ".ms-clear", HTMLButtonElement);

  /** @type {Shown | null} */
  let shown = null;
  /** @type {Grid | null} */
  let grid = null;
  /** @type {Parts} */
  let parts = NOTHING;
  /** The mask being painted. @type {{ size_wh: XY, bits: Uint8Array } | null} */
  let mask = null;
  /** A pointer that is down. @type {{ xy: XY, x: number, y: number, before: Parts, as: As, moved: boolean } | null} */
  let press = null;
  /** The box that keys draw, in cells. @type {{ anchor: XY, cursor: XY } | null} */
  let keys = null;

  /** @param {string} name */
  const chosen = (name) => find(element, `input[name=${name}]:checked`, HTMLInputElement).value;
  /** @param {string} name @param {string} value */
  const choose = (name, value) => {
    find(element, `input[name=${name}][value=${value}]`, HTMLInputElement).checked = true;
  };

  /** @param {Parts} next @param {boolean} done */
  function set(next, done) {
    parts = next;
    draw();
    changed(parts, done);
  }

  function draw() {
    if (!shown) return;
    drawAsked(marks, {
      ...shown, ...parts, masks: parts.masks.length, weights: [], without_masks: 0, shade: null,
    }); // prettier-ignore
    clear.disabled = isNothing(parts);
    painted.hidden = !parts.masks.length;
    if (parts.masks.length) paintMask(painted, parts.masks[0]);
  }

  /** @param {PointerEvent} event @returns {XY} */
  function pointAt(event) {
    const box = surface.getBoundingClientRect();
    const [width, height] = /** @type {Shown} */ (shown).size_wh;
    return /** @type {Grid} */ (grid).inside([
      ((event.clientX - box.x) / box.width) * width,
      ((event.clientY - box.y) / box.height) * height,
    ]);
  }

  /** With a new box. @param {Parts} before @param {As} as @param {XYXY} box @returns {Parts} */
  function withBox(before, as, box) {
    if (as === "not") return { ...before, without: [...before.without, box] };
    if (as === "and") return { ...before, boxes: [...before.boxes, box] };
    return { ...NOTHING, boxes: [box] };
  }

  /** @param {XY} from @param {XY} to */
  function stroke([x0, y0], [x1, y1]) {
    if (!mask || !shown) return;
    const [width, height] = mask.size_wh;
    const scale = width / shown.size_wh[0];
    const r = Math.max(1, BRUSH * Math.max(width, height));
    const steps = Math.max(1, Math.ceil((Math.hypot(x1 - x0, y1 - y0) * scale * 2) / r));
    for (let step = 0; step <= steps; step++) {
      const cx = (x0 + ((x1 - x0) * step) / steps) * scale;
      const cy = (y0 + ((y1 - y0) * step) / steps) * scale;
      for (let y = Math.max(0, Math.floor(cy - r)); y < Math.min(height, cy + r); y++) {
        for (let x = Math.max(0, Math.floor(cx - r)); x < Math.min(width, cx + r); x++) {
          const inside = (x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= r * r;
          if (inside) mask.bits[y * width + x] = press?.as === "not" ? 0 : 1;
        }
      }
    }
    const any = mask.bits.includes(1);
    const own = any ? [{ size_wh: mask.size_wh, runs: runsOf(mask.bits) }] : [];
    set({ ...parts, masks: own }, false);
  }

  surface.addEventListener("pointerdown", (event) => {
    if (!shown || event.button !== 0 || !event.isPrimary) return;
    surface.setPointerCapture(event.pointerId);
    const as = /** @type {As} */ (event.altKey ? "not" : event.shiftKey ? "and" : chosen("ms-as"));
    const xy = pointAt(event);
    keys = null;
    press = { xy, x: event.clientX, y: event.clientY, before: parts, as, moved: false };
    if (chosen("ms-tool") !== "paint") return;
    const old = as === "this" ? undefined : parts.masks[0];
    const size_wh = old?.size_wh ?? maskSize(shown.size_wh);
    mask = { size_wh, bits: old ? bitsOf(old) : new Uint8Array(size_wh[0] * size_wh[1]) };
    if (as === "this") parts = NOTHING;
    stroke(xy, xy);
  });
  surface.addEventListener("pointermove", (event) => {
    if (!press) return;
    const [x, y] = pointAt(event);
    if (mask) {
      stroke(press.xy, [x, y]);
      press.xy = [x, y];
      return;
    }
    press.moved ||= Math.hypot(event.clientX - press.x, event.clientY - press.y) > CLICK_SLOP;
    const [px, py] = press.xy;
    if (!press.moved || x === px || y === py) return;
    const box = /** @type {XYXY} */ (
      [Math.min(x, px), Math.min(y, py), Math.max(x, px), Math.max(y, py)].map(tenth)
    );
    if (box[0] < box[2] && box[1] < box[3]) set(withBox(press.before, press.as, box), false);
  });
  surface.addEventListener("pointerup", () => {
    if (!press) return;
    const { xy, before, as, moved } = press;
    press = null;
    if (!mask && !moved && as !== "not") {
      const point = /** @type {XY} */ (xy.map(tenth));
      parts =
        as === "and"
          ? { ...before, points: [...before.points, point] }
          : { ...NOTHING, points: [point] };
    }
    mask = null;
    set(parts, true);
  });
  surface.addEventListener("pointercancel", () => {
    if (press) set(press.before, true);
    press = mask = null;
  });
  surface.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!grid || event.ctrlKey || event.metaKey) return;
    if (arrow) moveByKeys(arrow, event.shiftKey, event.altKey);
    else if (event.key === "Delete" || event.key === "Backspace") set(NOTHING, true);
    else return;
    event.preventDefault();
  });
  clear.addEventListener("click", () => {
    set(NOTHING, true);
    surface.focus({ preventScroll: true });
  });
  image.addEventListener("error", () => (gone.hidden = false));

  /** @param {XY} arrow @param {boolean} grow @param {boolean} away */
  function moveByKeys([rows, columns], grow, away) {
    const of = /** @type {Grid} */ (grid);
    /** @type {XY} */
    const middle = [Math.floor(of.h / 2), Math.floor(of.w / 2)];
    const from = keys?.cursor ?? (parts.points[0] ? of.cellAt(parts.points[0]) : middle);
    // The first key only shows where the point is.
    const step = keys || parts.points[0] ? 1 : 0;
    /** @type {XY} */
    const to = [
      clamp(from[0] + rows * step, 0, of.h - 1),
      clamp(from[1] + columns * step, 0, of.w - 1),
    ];
    if (!grow) {
      keys = { anchor: to, cursor: to };
      const [x0, y0, x1, y1] = of.box(...to);
      set({ ...NOTHING, points: [[tenth((x0 + x1) / 2), tenth((y0 + y1) / 2)]] }, true);
      return;
    }
    const anchor = keys?.anchor ?? from;
    keys = { anchor, cursor: to };
    const box = of.box(
      Math.min(anchor[0], to[0]), Math.min(anchor[1], to[1]),
      Math.abs(anchor[0] - to[0]) + 1, Math.abs(anchor[1] - to[1]) + 1,
    ); // prettier-ignore
    set({ ...NOTHING, [away ? "without" : "boxes"]: [box.map(tenth)] }, true);
  }

  return {
    /** Shows a query, and what of it is marked. @param {Shown} query @param {Parts} of */
    show(query, of) {
      if (shown?.src !== query.src || shown.missing !== query.missing) {
        const [width, height] = query.size_wh;
        figure.style.setProperty("--wa-aspect", String(width / height));
        const caption = find(figure, "figcaption span", HTMLElement);
        write(caption, query.name);
        caption.title = query.name;
        if (query.missing) image.removeAttribute("src");
        else image.src = query.src;
        image.alt = query.missing ? "" : `The query, ${query.name}`;
        gone.hidden = !query.missing;
        placeView(find(figure, ".wa-view", HTMLElement), { ...query, ...EMPTY });
        const [h, w] = query.grid_hw;
        const words = `Query ${query.name}, ${h} rows of ${w} cells. Arrow keys move a point, with Shift they draw a box, Delete clears.`;
        surface.setAttribute("aria-label", words);
        grid = new Grid({ ...query, ...EMPTY });
        keys = null;
      }
      shown = query;
      parts = of;
      draw();
    },
    /** Another tool. @param {"box" | "paint"} tool */
    use: (tool) => choose("ms-tool", tool),
    /** Nothing is marked any more. */
    clear: () => set(NOTHING, true),
    focus: () => surface.focus({ preventScroll: true }),
  };
}

/** @type {Record<string, XY>} */
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
/** What a photograph of a pair has as well, and a query has not. @type {any} */
const EMPTY = {};

/** A tenth of a pixel is enough, and makes short links. @param {number} value */
const tenth = (value) => Math.round(value * 10) / 10;

/** @param {XY} size_wh @returns {XY} */
function maskSize([width, height]) {
  const scale = MASK_SIDE / Math.max(width, height);
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** @param {Uint8Array} bits */
export function runsOf(bits) {
  const runs = [];
  let value = 0;
  let start = 0;
  for (let i = 0; i <= bits.length; i++) {
    if (i < bits.length && bits[i] === value) continue;
    runs.push(i - start);
    [start, value] = [i, 1 - value];
  }
  return runs;
}

/** @param {Mask} mask */
export function bitsOf({ size_wh: [width, height], runs }) {
  const bits = new Uint8Array(width * height);
  let at = 0;
  runs.forEach((run, turn) => {
    bits.fill(turn % 2, at, at + run);
    at += run;
  });
  return bits;
}

/** Dark where the mask does not ask. @param {HTMLCanvasElement} canvas @param {Mask} mask */
function paintMask(canvas, mask) {
  [canvas.width, canvas.height] = mask.size_wh;
  const image = new ImageData(canvas.width, canvas.height);
  bitsOf(mask).forEach((bit, i) => (image.data[4 * i + 3] = bit ? 0 : 130));
  canvas.getContext("2d")?.putImageData(image, 0, 0);
}
