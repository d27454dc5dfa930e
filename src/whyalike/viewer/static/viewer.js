// @ts-check
/**
 * Why are these two images alike? Two photographs, and what each region of one shares with the
 * other, computed here from the links between their cells.
 *
 * `mount` owns one element and nothing else of the page: no globals, no ids that collide, no
 * listeners outside of it. One state goes in, one `render` draws it.
 *
 * Frames: pixel coordinates are those of the original photograph, continuous, pixel i covers
 * [i, i + 1). The cells of a grid tile the view, the part of the photograph that the network saw.
 */

// ── The data and the state ───────────────────────────────────────────────────────────────────

/** @typedef {"query" | "reference"} Side */
/** @typedef {[number, number]} XY */
/** @typedef {[number, number, number, number]} XYXY */
/**
 * A photograph: size and view in its pixels; the overall maps without and with the other's bias as
 * float32 (h, w); perhaps how much each cell takes of each (n, n), float16, for maps that are shared
 * among like cells. All arrays are little-endian base64, row by row.
 * @typedef {{ name: string, src: string, size_wh: XY, view_xyxy: XYXY, grid_hw: XY, overall: string, overall_bias: string, sharing?: { scale: number, matrix: string } }} PhotoData
 */
/**
 * What each pair of cells shares, float16, as a matrix (nq, nr) or as its factors (n, rank):
 * scale × stored, or scale × q·r.
 * @typedef {({ encoding: "matrix", matrix: string } | { encoding: "factors", rank: number, query: string, reference: string }) & { scale: number, peak: number }} LinkData
 */
/** @typedef {{ query_xyxy: XYXY, reference_xyxy: XYXY, value: number, share: number | null }} Match `share`: null where the similarity is 0 */
/** @typedef {{ pairs: number, query_bias: number, reference_bias: number, bias_bias: number }} Terms */
/** @typedef {{ format: 1, model: string, similarity: number, terms: Terms, query: PhotoData, reference: PhotoData, links: LinkData, matches: Match[] }} ViewerData */
/** @typedef {{ side: Side, xy: XY } | { side: Side, xyxy: XYXY }} Mark a point or a region */
/**
 * @typedef {object} State
 * @property {"overall" | "point" | "matches"} view
 * @property {"both" | "positive" | "negative"} sign
 * @property {"pair" | "fixed" | "fit"} scale
 * @property {boolean} bias count the other image's bias in the overall map and in shares
 * @property {boolean} heat
 * @property {number} opacity 0..1
 * @property {Mark | null} mark
 * @property {boolean} pinned the mark stays when the pointer moves on
 * @property {number | null} match the chosen one of the matches
 */
/** @typedef {{ state?: Partial<State>, headingLevel?: number, theme?: "light" | "dark" }} Options */
/** @typedef {{ values: Float32Array, full: number, link: boolean }} HeatMap `full`: the value of full colour */
/** @typedef {Record<Side, HeatMap | null>} HeatMaps */
/** @typedef {{ side: Side, row: number, column: number, value: number }} Meeting a cell, and what it shares with the mark */

/** @type {Side[]} */
const SIDES = ["query", "reference"];
/** @type {Record<Side, Side>} */
const OTHER = { query: "reference", reference: "query" };
/** @type {State} */
const START = {
  view: "point",
  sign: "both",
  scale: "pair",
  bias: false,
  heat: true,
  opacity: 0.8,
  mark: null,
  pinned: false,
  match: null,
};

/**
 * The fixed colour scale knows the grids and the size of the region, never the pair, so that
 * colours compare between pairs. In a perfect match (cosine 1) each of n cells holds 1/n if all
 * hold the same; full colour is this many times as much. Under a mark that covers k of the n cells
 * full colour would be PEAK·k/n of the match, at most all of it, and as peaked again on the other
 * side: a region that is the whole image has the overall map's colours.
 */
const PEAK = 4;
/** Maps are drawn with about this many pixels a side and enlarged by the browser. */
const MAP_PIXELS = 192;
/** Colours on each side of zero. */
const LEVELS = 511;
/** A pointer that moves less than this many css pixels between down and up has clicked. */
const CLICK_SLOP = 5;
/** Wait before telling a screen reader what is marked, in milliseconds. */
const SPEAK_AFTER = 500;

// ── Decoding ─────────────────────────────────────────────────────────────────────────────────

/** @param {string} text @returns {ArrayBuffer} */
function decodeBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

/** @param {string} text @returns {Float32Array} */
const decodeFloats = (text) => new Float32Array(decodeBase64(text));

/** @type {Float32Array | null} */
let halves = null;

/**
 * float16 to float32 by looking all 65536 of them up: as fast as Float16Array, and everywhere.
 * @param {string} text @param {number} scale @returns {Float32Array}
 */
function decodeHalves(text, scale) {
  if (!halves) {
    halves = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) {
      const exponent = (bits >> 10) & 31;
      const fraction = (bits & 1023) / 1024;
      const size = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
      halves[bits] = bits & 0x8000 ? -size : size;
    }
  }
  const bits = new Uint16Array(decodeBase64(text));
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = halves[bits[i]] * scale;
  return values;
}

// ── Cells and links ──────────────────────────────────────────────────────────────────────────

/**
 * The cells under a mark and how much of each: a point's weights are bilinear and sum to 1, a
 * region's are the covered shares of the cells.
 * @typedef {{ cells: Int32Array, weights: Float32Array, sum: number }} Footprint
 */

/** A photograph's grid, and the way between its cells and the photograph's pixels. */
class Grid {
  /** @param {PhotoData} photo */
  constructor(photo) {
    const [h, w] = photo.grid_hw;
    const [x0, y0, x1, y1] = photo.view_xyxy;
    this.h = h;
    this.w = w;
    this.n = h * w;
    this.x0 = x0;
    this.y0 = y0;
    this.x1 = x1;
    this.y1 = y1;
    this.dx = (x1 - x0) / w;
    this.dy = (y1 - y0) / h;
  }

  /** Row and column under a point. @param {XY} xy @returns {XY} */
  cellAt([x, y]) {
    return [
      clamp(Math.floor((y - this.y0) / this.dy), 0, this.h - 1),
      clamp(Math.floor((x - this.x0) / this.dx), 0, this.w - 1),
    ];
  }

  /** Box in pixels of a block of cells. @param {number} row @param {number} column @returns {XYXY} */
  box(row, column, rows = 1, columns = 1) {
    const x = this.x0 + column * this.dx;
    const y = this.y0 + row * this.dy;
    return [x, y, x + columns * this.dx, y + rows * this.dy];
  }

  /** @param {XY} xy @returns {XY} */
  inside([x, y]) {
    return [clamp(x, this.x0, this.x1), clamp(y, this.y0, this.y1)];
  }

  /** @param {Mark} mark @returns {Footprint} */
  footprint(mark) {
    const [x1, y1, x2, y2] = "xy" in mark ? [...mark.xy, ...mark.xy] : mark.xyxy;
    const weigh = "xy" in mark ? interpolation : coverage;
    const rows = weigh((y1 - this.y0) / this.dy, (y2 - this.y0) / this.dy, this.h);
    const columns = weigh((x1 - this.x0) / this.dx, (x2 - this.x0) / this.dx, this.w);
    const cells = new Int32Array(rows.length * columns.length);
    const weights = new Float32Array(cells.length);
    let k = 0;
    let sum = 0;
    for (const [row, a] of rows) {
      for (const [column, b] of columns) {
        cells[k] = row * this.w + column;
        weights[k++] = a * b;
        sum += a * b;
      }
    }
    return { cells, weights, sum };
  }
}

/**
 * Bilinear weights along one axis, in cells; outside of the outermost centres they stay.
 * @param {number} position @param {number} _ @param {number} n @returns {[number, number][]}
 */
function interpolation(position, _, n) {
  const p = clamp(position, 0.5, n - 0.5) - 0.5;
  const low = Math.min(Math.floor(p), n - 1);
  return p > low
    ? [
        [low, 1 - p + low],
        [low + 1, p - low],
      ]
    : [[low, 1]];
}

/**
 * Covered length of each cell along one axis.
 * @param {number} low @param {number} high @param {number} n @returns {[number, number][]}
 */
function coverage(low, high, n) {
  /** @type {[number, number][]} */
  const weights = [];
  for (let i = Math.max(0, Math.floor(low)); i < Math.min(n, Math.ceil(high)); i++) {
    weights.push([i, Math.min(high, i + 1) - Math.max(low, i)]);
  }
  return weights;
}

/**
 * What the cells of a footprint share with each cell of the other image: Σ_k w_k v_k·v_j.
 * @param {LinkData} links @param {Record<Side, Grid>} grids
 * @returns {(side: Side, footprint: Footprint) => Float32Array}
 */
function makeLinks(links, grids) {
  const out = {
    query: new Float32Array(grids.query.n),
    reference: new Float32Array(grids.reference.n),
  };
  if (links.encoding === "factors") {
    const { rank, scale } = links;
    const factors = {
      query: decodeHalves(links.query, scale),
      reference: decodeHalves(links.reference, 1),
    };
    const vector = new Float32Array(rank);
    return (side, { cells, weights }) => {
      vector.fill(0);
      const own = factors[side];
      const rows = factors[OTHER[side]];
      for (let k = 0; k < cells.length; k++) {
        const weight = weights[k];
        for (let c = 0, at = cells[k] * rank; c < rank; c++) vector[c] += weight * own[at++];
      }
      const map = out[OTHER[side]];
      for (let j = 0, at = 0; j < map.length; j++) {
        let sum = 0;
        for (let c = 0; c < rank; c++) sum += vector[c] * rows[at++];
        map[j] = sum;
      }
      return map;
    };
  }
  const matrix = decodeHalves(links.matrix, links.scale);
  const nr = grids.reference.n;
  return (side, { cells, weights }) => {
    const map = out[OTHER[side]].fill(0);
    if (side === "query") {
      for (let k = 0; k < cells.length; k++) {
        const weight = weights[k];
        for (let j = 0, at = cells[k] * nr; j < nr; j++) map[j] += weight * matrix[at++];
      }
    } else {
      for (let i = 0; i < map.length; i++) {
        let sum = 0;
        for (let k = 0; k < cells.length; k++) sum += weights[k] * matrix[i * nr + cells[k]];
        map[i] = sum;
      }
    }
    return map;
  };
}

/**
 * Maps of links as they are drawn: shared among like cells of the photograph, where it says how.
 * @param {ViewerData} data @param {Record<Side, Grid>} grids
 * @returns {(side: Side, footprint: Footprint) => Float32Array}
 */
function makeMaps(data, grids) {
  const links = makeLinks(data.links, grids);
  /** @param {Side} side */
  const sharing = (side) => {
    const given = data[side].sharing;
    return (
      given && { by: decodeHalves(given.matrix, given.scale), out: new Float32Array(grids[side].n) }
    );
  };
  const shared = { query: sharing("query"), reference: sharing("reference") };
  return (side, footprint) => {
    const map = links(side, footprint);
    const given = shared[OTHER[side]];
    if (!given) return map;
    const { by, out } = given;
    for (let i = 0, at = 0; i < out.length; i++) {
      let sum = 0;
      for (let j = 0; j < map.length; j++) sum += by[at++] * map[j];
      out[i] = sum;
    }
    return out;
  };
}

/** @param {Footprint} footprint @param {Float32Array} map */
function weighted({ cells, weights }, map) {
  let sum = 0;
  for (let k = 0; k < cells.length; k++) sum += weights[k] * map[cells[k]];
  return sum;
}

// ── Colour ───────────────────────────────────────────────────────────────────────────────────

/** Warm is evidence for, blue against: [strength, red, green, blue], told apart by all eyes. */
const FOR = [
  [0, 255, 196, 84],
  [0.35, 255, 150, 30],
  [0.7, 240, 78, 10],
  [1, 200, 16, 20],
];
const AGAINST = [
  [0, 120, 200, 255],
  [0.35, 60, 150, 255],
  [0.7, 20, 90, 235],
  [1, 20, 40, 170],
];

/**
 * Colours from −1 to 1 as rgba words; zero and the side that is left out are transparent.
 * @param {State["sign"]} sign @param {number} opacity
 */
function makeColours(sign, opacity) {
  const colours = new Uint8ClampedArray(4 * (2 * LEVELS + 1));
  for (let level = -LEVELS; level <= LEVELS; level++) {
    if (!level || (level < 0 ? sign === "positive" : sign === "negative")) continue;
    // Faint evidence has a colour early, and covers the photograph only as it grows; the legend's
    // axis stays linear and shows the bend.
    const share = Math.abs(level) / LEVELS;
    const t = share ** 0.6;
    const ramp = level > 0 ? FOR : AGAINST;
    const to = Math.max(
      1,
      ramp.findIndex(([at]) => at >= t),
    );
    const f = (t - ramp[to - 1][0]) / (ramp[to][0] - ramp[to - 1][0]);
    for (let c = 0; c < 3; c++) {
      colours[4 * (level + LEVELS) + c] = ramp[to - 1][c + 1] * (1 - f) + ramp[to][c + 1] * f;
    }
    colours[4 * (level + LEVELS) + 3] = 255 * opacity * share;
  }
  return new Uint32Array(colours.buffer);
}

/**
 * A painter of one canvas: values are interpolated bilinearly between cell centres, then coloured
 * (interpolated colours would be wrong near zero).
 * @param {HTMLCanvasElement} canvas @param {number} h @param {number} w
 * @returns {(values: Float32Array | null, full: number, colours: Uint32Array) => void}
 */
function makePainter(canvas, h, w) {
  // Odd, so that the centre of each cell is a pixel.
  const k = 2 * clamp(Math.floor(MAP_PIXELS / Math.max(h, w) / 2), 0, 8) + 1;
  const width = (canvas.width = w * k);
  const height = (canvas.height = h * k);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const wide = new Float32Array(h * width);
  /** The cell below a pixel and the weight of the next one, along one axis. @param {number} n */
  const samples = (n) => {
    const positions = Float32Array.from({ length: n * k }, (_, i) =>
      clamp((i + 0.5) / k - 0.5, 0, n - 1),
    );
    return { low: Int32Array.from(positions), next: positions.map((p) => p - Math.floor(p)) };
  };
  const columns = samples(w);
  const rows = samples(h);
  return (values, full, colours) => {
    if (!values) return context.clearRect(0, 0, width, height);
    for (let row = 0, at = 0; row < h; row++) {
      for (let x = 0; x < width; x++) {
        const cell = row * w + columns.low[x];
        const f = columns.next[x];
        wide[at++] = f ? values[cell] * (1 - f) + values[cell + 1] * f : values[cell];
      }
    }
    const gain = LEVELS / full;
    for (let y = 0, at = 0; y < height; y++) {
      const above = rows.low[y] * width;
      const f = rows.next[y];
      const below = f ? above + width : above;
      for (let x = 0; x < width; x++) {
        const value = wide[above + x] * (1 - f) + wide[below + x] * f;
        const level = (value * gain + LEVELS + 0.5) | 0;
        pixels[at++] = colours[level < 0 ? 0 : level > 2 * LEVELS ? 2 * LEVELS : level];
      }
    }
    context.putImageData(image, 0, 0);
  };
}

// ── Words and numbers ────────────────────────────────────────────────────────────────────────

/** @param {number} value @param {number} low @param {number} high */
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** @param {Float32Array} values */
const largest = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);

/** The next 1, 2 or 5 times a power of ten, so that most pairs come to few scales. @param {number} x */
function roundUp(x) {
  if (!(x > 0)) return 0;
  const power = 10 ** Math.floor(Math.log10(x));
  return ([1, 2, 5].find((step) => step * power >= x * (1 - 1e-6)) ?? 10) * power;
}

/** @template T @param {T[]} values @param {T} value @returns {T} */
const after = (values, value) => values[(values.indexOf(value) + 1) % values.length];

/** Six decimals, a real minus. @param {number} value */
const exact = (value) => (value <= -5e-7 ? "−" : "") + Math.abs(value).toFixed(6);

/** "+0.0123", "−3.1×10⁻⁶": the digits that count. @param {number} value */
function signed(value) {
  const size = Math.abs(value);
  if (size < 1e-10) return "0"; // rounding
  const sign = value < 0 ? "−" : "+";
  if (size < 1e-4) {
    const [mantissa, exponent] = size.toExponential(1).split("e-");
    return `${sign}${mantissa}×10⁻${[...exponent].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[+digit]).join("")}`;
  }
  return sign + size.toFixed(clamp(2 - Math.floor(Math.log10(size)), 2, 7));
}

/** @param {number} share */
function percent(share) {
  const size = Math.abs(100 * share);
  if (size < 0.005) return "0 %";
  return `${share < 0 ? "−" : ""}${size.toFixed(size < 1 ? 2 : size < 10 ? 1 : 0)} %`;
}

/** @param {number} value */
const signClass = (value) => (value < 0 ? "wa-against" : "wa-for");

// ── The parts of the page ────────────────────────────────────────────────────────────────────

// Markup is only ever written here. What the data says goes in as text or by properties: file
// names come from strangers.
const FIGURE = `
  <figure class="wa-figure">
    <figcaption>
      <span class="wa-name"><b></b> <span></span></span>
      <span class="wa-scale">
        <span></span><canvas height="1" aria-hidden="true"></canvas><span></span>
        <span class="wa-unit">per cell</span>
      </span>
    </figcaption>
    <div class="wa-frame">
      <img alt="" draggable="false">
      <div class="wa-view">
        <canvas class="wa-map" tabindex="0" role="application" aria-roledescription="map"></canvas>
      </div>
    </div>
  </figure>`;

/** Radio buttons, so that arrow keys and screen readers know them. @param {string} legend @param {string} key @param {Record<string, string>} choices */
const choice = (legend, key, choices) => `
  <fieldset class="wa-choice wa-choice-${key}">
    <legend>${legend}</legend>
    <div class="wa-segments">
      ${Object.entries(choices)
        .map(
          ([value, label]) => `
            <label class="wa-segment wa-segment-${value}">
              <input type="radio" value="${value}" data-key="${key}"><span>${label}</span>
            </label>`,
        )
        .join("")}
    </div>
  </fieldset>`;

/** @param {string} key @param {string} label @param {string} title */
const toggle = (key, label, title) => `
  <label class="wa-toggle" title="${title}">
    <input type="checkbox" data-key="${key}"><span>${label}</span>
  </label>`;

/** @type {[keyof Terms | "similarity", string, string][]} */
const LEDGER = [
  ["pairs", "regions × regions", "Σv<sup>q</sup> · Σv<sup>r</sup>"],
  ["query_bias", "query’s bias × regions", "b<sup>q</sup> · Σv<sup>r</sup>"],
  ["reference_bias", "regions × reference’s bias", "Σv<sup>q</sup> · b<sup>r</sup>"],
  ["bias_bias", "bias × bias", "b<sup>q</sup> · b<sup>r</sup>"],
  ["similarity", "similarity", "cosine"],
];

const KEYS = {
  "← ↑ → ↓": "move the point by one cell",
  "Shift + arrows": "grow or shrink a region",
  "Enter, Space": "pin what is marked",
  Esc: "clear it",
  "O  P  M": "overall, point, matches",
  "B  H": "biases, heat map",
  S: "both signs, for, against",
  F: "colour scale",
};

/** @param {number} level of the heading */
const markup = (level) => `
  <header class="wa-header">
    <h${level}>Why are these two images alike?</h${level}>
    <p class="wa-lead">
      A network’s similarity score is a sum over all pairs of regions, one from each photograph.
      Point at a region to see what it matches in the other photograph, and how much of the score
      it carries.
    </p>
    <p class="wa-score"><strong></strong> similarity</p>
  </header>
  <div class="wa-main">
    <div>
      ${choice("View", "view", { overall: "Overall", point: "Point or region", matches: "Matches" })}
      <div class="wa-stage">${FIGURE}${FIGURE}<svg class="wa-overlay" aria-hidden="true"></svg></div>
    </div>
    <div>
      <div class="wa-says">
        <p class="wa-readout"></p>
        <button type="button" class="wa-clear">Clear</button>
      </div>
      <ol class="wa-matches" aria-label="Strongest matches"></ol>
      <p class="wa-spoken wa-hidden" aria-live="polite"></p>
      <p class="wa-help wa-hidden">
        Arrow keys move a point, with Shift they draw a region. Enter pins it, Escape clears it.
      </p>
      <div class="wa-lower">
        <div class="wa-controls">
          ${choice("Evidence", "sign", { both: "Both", positive: "For", negative: "Against" })}
          ${choice("Colour scale", "scale", { pair: "Pair", fixed: "Fixed", fit: "Fit" })}
          <fieldset class="wa-choice">
            <legend>Heat map</legend>
            <div class="wa-heat">
              ${toggle("heat", "Show", "Heat map (H)")}
              <label class="wa-opacity">
                Opacity <input type="range" min="0" max="1" step="0.05" data-key="opacity">
              </label>
              ${toggle("bias", "With biases", "Count what each region shares with the other image’s bias, too (B)")}
            </div>
          </fieldset>
          <p class="wa-note"></p>
        </div>
        <table class="wa-ledger">
          <caption>What the similarity is made of</caption>
          <tbody>
            ${LEDGER.map(
              ([key, label, symbol]) => `
                <tr class="wa-row-${key}" data-term="${key}">
                  <th scope="row">${label} <span class="wa-symbol">${symbol}</span></th>
                  <td class="wa-bars"><span class="wa-track"><i class="wa-zero"></i><i class="wa-bar"></i></span></td>
                  <td class="wa-number"></td>
                </tr>`,
            ).join("")}
          </tbody>
        </table>
      </div>
    </div>
  </div>
  <footer class="wa-footer">
    <p class="wa-model"></p>
    <details>
      <summary>Keys</summary>
      <dl>
        ${Object.entries(KEYS)
          .map(([key, what]) => `<div><dt>${key}</dt><dd>${what}</dd></div>`)
          .join("")}
      </dl>
    </details>
  </footer>`;

/**
 * The part of the page that a selector names, known to be there and of a kind.
 * @template {Element} T
 * @param {Element} root @param {string} selector @param {new () => T} kind @returns {T}
 */
function find(root, selector, kind) {
  const element = root.querySelector(selector);
  if (!(element instanceof kind)) throw new Error(`the page lacks ${selector}`);
  return element;
}

/** Writes only what is new, so that a hover lays out little. @param {Node} node @param {string} text */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {string} tag @param {string} kind @param {string} text */
function inline(tag, kind, text) {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  return element;
}

/** @param {string} tag @param {Record<string, string | number>} attributes @param {(Node | string)[]} children */
function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** Fills one of the two figures. @param {Element} figure @param {Side} side @param {PhotoData} photo */
function fillFigure(figure, side, photo) {
  const [width, height] = photo.size_wh;
  const [x0, y0, x1, y1] = photo.view_xyxy;
  const [h, w] = photo.grid_hw;
  const element = /** @type {HTMLElement} */ (figure);
  element.style.setProperty("--wa-aspect", String(width / height));
  find(element, "img", HTMLImageElement).src = photo.src;
  find(element, ".wa-name b", HTMLElement).textContent = side;
  const name = find(element, ".wa-name span", HTMLElement);
  name.textContent = name.title = photo.name;
  Object.assign(find(element, ".wa-view", HTMLElement).style, {
    left: `${(100 * x0) / width}%`,
    top: `${(100 * y0) / height}%`,
    width: `${(100 * (x1 - x0)) / width}%`,
    height: `${(100 * (y1 - y0)) / height}%`,
  });
  const canvas = find(element, ".wa-map", HTMLCanvasElement);
  canvas.setAttribute("aria-label", `${side} photograph ${photo.name}, ${h} rows of ${w} cells`);
  const scale = find(element, ".wa-scale", HTMLElement);
  const [low, high] = scale.querySelectorAll("span");
  const bar = find(scale, "canvas", HTMLCanvasElement);
  bar.width = 2 * LEVELS + 1;
  /** @type {Uint32Array | null} */
  let shaded = null;
  return {
    canvas,
    frame: find(element, ".wa-frame", HTMLElement),
    paint: makePainter(canvas, h, w),
    /** The legend of the map shown. @param {HeatMap | null} map @param {Uint32Array} colours */
    label(map, colours) {
      scale.classList.toggle("wa-off", !map);
      if (!map) return;
      write(low, signed(-map.full));
      write(high, signed(map.full));
      if (shaded === colours) return;
      shaded = colours;
      const image = new ImageData(new Uint8ClampedArray(colours.slice().buffer), bar.width, 1);
      bar.getContext("2d")?.putImageData(image, 0, 0);
    },
  };
}

/** The four terms as a waterfall that ends at the similarity. @param {Element} root @param {ViewerData} data */
function fillLedger(root, data) {
  const values = { ...data.terms, similarity: data.similarity };
  let end = 0;
  const bars = LEDGER.map(([key]) => {
    const start = key === "similarity" ? 0 : end;
    end = start + values[key];
    return { key, value: values[key], low: Math.min(start, end), high: Math.max(start, end) };
  });
  const low = Math.min(...bars.map((bar) => bar.low));
  const span = Math.max(...bars.map((bar) => bar.high)) - low || 1;
  for (const bar of bars) {
    const row = find(root, `[data-term=${bar.key}]`, HTMLElement);
    const shape = find(row, ".wa-bar", HTMLElement);
    row.classList.add(signClass(bar.value));
    row.title = `${find(row, "th", HTMLElement).textContent}: ${bar.value}`;
    find(row, ".wa-zero", HTMLElement).style.left = `${(-100 * low) / span}%`;
    shape.style.left = `${(100 * (bar.low - low)) / span}%`;
    shape.style.width = `${(100 * (bar.high - bar.low)) / span}%`;
    find(row, ".wa-number", HTMLElement).textContent = exact(bar.value);
  }
}

/** @param {Element} list @param {Match[]} matches */
function fillMatches(list, matches) {
  matches.forEach(({ value, share }, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = signClass(value);
    button.dataset.match = String(index);
    if (share !== null) button.append(inline("b", "", percent(share)), " ");
    button.append(inline("span", "", signed(value)));
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  });
}

// ── The viewer ───────────────────────────────────────────────────────────────────────────────

/**
 * Builds the viewer inside an element.
 * @param {HTMLElement} element @param {ViewerData} data @param {Options} options
 */
export function mount(element, data, options = {}) {
  if (data.format !== 1) {
    throw new Error(
      `this viewer reads data of format 1; came ${data.format}; take the viewer of the version that wrote it`,
    );
  }
  const grids = { query: new Grid(data.query), reference: new Grid(data.reference) };
  const overall = {
    query: [decodeFloats(data.query.overall), decodeFloats(data.query.overall_bias)],
    reference: [decodeFloats(data.reference.overall), decodeFloats(data.reference.overall_bias)],
  };
  const linkMap = makeMaps(data, grids);
  const overallFull =
    roundUp(Math.max(...SIDES.flatMap((side) => overall[side].map(largest)))) || 1;

  // The page is built once; render changes it.
  const root = document.createElement("section");
  root.className = "wa-root";
  root.setAttribute("aria-label", "Why are these two images alike?");
  root.innerHTML = markup(options.headingLevel ?? 2);
  if (options.theme) root.style.colorScheme = options.theme;
  /** @param {string} name */
  const part = (name) => find(root, `.wa-${name}`, HTMLElement);
  const [main, stage, readout, clear, list] = ["main", "stage", "readout", "clear", "matches"].map(
    part,
  );
  const [spoken, note, help] = ["spoken", "note", "help"].map(part);
  const overlay = find(root, ".wa-overlay", SVGElement);
  const inputs = root.querySelectorAll("input");
  // Ids, and names of radio buttons, are the whole document's.
  const unique = Math.random().toString(36).slice(2);
  for (const input of inputs)
    if (input.type === "radio") input.name = `wa-${input.dataset.key}-${unique}`;
  help.id = `wa-help-${unique}`;

  const [queryFigure, referenceFigure] = stage.querySelectorAll("figure");
  const figures = {
    query: fillFigure(queryFigure, "query", data.query),
    reference: fillFigure(referenceFigure, "reference", data.reference),
  };
  for (const side of SIDES) figures[side].canvas.setAttribute("aria-describedby", help.id);
  const aspects = SIDES.reduce(
    (sum, side) => sum + data[side].size_wh[0] / data[side].size_wh[1],
    0,
  );
  stage.style.setProperty("--wa-sum", String(aspects));
  main.dataset.shape = aspects < 1.8 ? "tall" : aspects > 4.5 ? "wide" : "usual";
  find(root, ".wa-score strong", HTMLElement).textContent = signed(data.similarity).replace(
    "+",
    "",
  );
  part("score").title = `cosine similarity ${data.similarity}`;
  part("model").textContent = data.model;
  fillLedger(root, data);
  fillMatches(list, data.matches);

  /** @type {State} */
  let state = { ...START };
  /** The state that was last drawn. @type {State | null} */
  let drawn = null;
  let colours = makeColours(state.sign, state.opacity);
  let frame = 0;
  let speaking = 0;
  /** The match under the pointer. @type {number | null} */
  let hovered = null;
  /** A pointer that is down. @type {{ xy: XY, x: number, y: number, before: State, region: boolean } | null} */
  let press = null;
  /** The region that shift and arrows grow, in cells. @type {{ mark: Mark | null, anchor: XY, cursor: XY } | null} */
  let growing = null;
  /** Where the views are on the stage, in css pixels. @type {Record<Side, DOMRect>} */
  const places = { query: new DOMRect(), reference: new DOMRect() };
  /** @type {Set<(state: State) => void>} */
  const listeners = new Set();

  function draw() {
    if (!frame) frame = requestAnimationFrame(render);
  }

  /** @param {Partial<State>} partial */
  function setState(partial) {
    const next = { ...state, ...partial };
    if (next.mark && "xy" in next.mark) {
      next.mark = { side: next.mark.side, xy: grids[next.mark.side].inside(next.mark.xy) };
    }
    if (!next.mark) next.pinned = false;
    next.opacity = clamp(next.opacity, 0, 1);
    if (next.sign !== state.sign || next.opacity !== state.opacity) {
      colours = makeColours(next.sign, next.opacity);
    }
    state = next;
    draw();
  }

  // State → maps

  /** @returns {HeatMaps} */
  function currentMaps() {
    const { view, mark, bias, scale } = state;
    /** @type {HeatMaps} */
    const maps = { query: null, reference: null };
    if (view === "point" && mark) {
      const footprint = grids[mark.side].footprint(mark);
      const values = linkMap(mark.side, footprint);
      const share = Math.min(1, (PEAK * footprint.sum) / grids[mark.side].n);
      // A region is drawn to be read, so its scale is its own; points share the pair's, so that
      // a place that carries little looks so.
      const ofPair = "xy" in mark ? data.links.peak : largest(values);
      const full = scale === "fixed" ? (PEAK * share) / values.length : roundUp(ofPair);
      // A region outside of the view shares nothing: any scale does.
      maps[OTHER[mark.side]] = { values, full: full || 1, link: true };
    } else if (view !== "matches") {
      for (const side of SIDES) {
        maps[side] = {
          values: overall[side][Number(bias)],
          full: scale === "fixed" ? PEAK / grids[side].n : overallFull,
          link: false,
        };
      }
    }
    for (const map of Object.values(maps)) {
      if (map && scale === "fit") map.full = largest(map.values) || 1;
    }
    return maps;
  }

  /** Where the marked place meets the other image most strongly, of the signs that are shown. @param {HeatMaps} maps @returns {Meeting | null} */
  function strongest(maps) {
    const { mark, sign } = state;
    const side = mark ? OTHER[mark.side] : "query";
    const map = maps[side];
    if (!map || !map.link) return null;
    let best = -1;
    let most = map.full / LEVELS / 2; // what is too faint to be drawn is nowhere
    for (let i = 0; i < map.values.length; i++) {
      const v = map.values[i];
      const size = sign === "positive" ? v : sign === "negative" ? -v : Math.abs(v);
      if (size > most) [most, best] = [size, i];
    }
    const { w } = grids[side];
    return best < 0
      ? null
      : { side, row: Math.floor(best / w), column: best % w, value: map.values[best] };
  }

  /** The matches of the signs that are shown, with their place in the data. */
  const shownMatches = () =>
    data.matches
      .map((match, index) => ({ match, index }))
      .filter(
        ({ match: { value } }) =>
          state.sign === "both" || value > 0 === (state.sign === "positive"),
      );

  // Maps → marks on the photographs

  /** A point of a photograph on the stage. @param {Side} side @param {number} x @param {number} y */
  function onStage(side, x, y) {
    const { x0, y0, x1, y1 } = grids[side];
    const place = places[side];
    return [
      place.x + (place.width * (x - x0)) / (x1 - x0),
      place.y + (place.height * (y - y0)) / (y1 - y0),
    ];
  }

  /** @param {Side} side @param {XYXY} xyxy @param {string} kind */
  function drawBox(side, xyxy, kind) {
    const [x, y] = onStage(side, xyxy[0], xyxy[1]);
    const [x2, y2] = onStage(side, xyxy[2], xyxy[3]);
    // Inset, so that neighbours do not run into each other.
    const [width, height] = [Math.max(x2 - x - 3, 1), Math.max(y2 - y - 3, 1)];
    const box = { x: x + 1.5, y: y + 1.5, width, height, rx: 2 };
    return [svg("rect", { ...box, class: "wa-casing" }), svg("rect", { ...box, class: kind })];
  }

  /** @param {Mark} mark */
  function drawMark(mark) {
    const kind = state.pinned ? "wa-mark wa-pinned" : "wa-mark";
    if ("xyxy" in mark) return drawBox(mark.side, mark.xyxy, kind);
    const [cx, cy] = onStage(mark.side, ...mark.xy);
    const { dx, dy } = grids[mark.side];
    // The ring is as large as a cell: what is marked is a cell's worth, not a pixel.
    const [edge] = onStage(mark.side, mark.xy[0] + Math.min(dx, dy) / 2, 0);
    const ring = { cx, cy, r: clamp(edge - cx, 7, 26) };
    return [
      svg("circle", { ...ring, class: "wa-casing" }),
      svg("circle", { ...ring, class: kind }),
      svg("circle", { cx, cy, r: 2, class: "wa-centre" }),
    ];
  }

  /** @param {Meeting | null} best */
  function drawMeeting(best) {
    if (!best) return [];
    const { x0, y0, dx, dy } = grids[best.side];
    const [cx, cy] = onStage(best.side, x0 + (best.column + 0.5) * dx, y0 + (best.row + 0.5) * dy);
    return [svg("circle", { cx, cy, r: 5, class: `wa-dot ${signClass(best.value)}` })];
  }

  function drawMatches() {
    const chosen = hovered ?? state.match;
    const shown = shownMatches();
    const most = Math.max(...shown.map(({ match }) => Math.abs(match.value)));
    /** @type {Node[]} */
    const lines = [];
    /** @type {Node[]} */
    const labels = [];
    /** Labels so far: centre and half width. @type {number[][]} */
    const taken = [];
    for (const { match, index } of shown) {
      const kind = `${signClass(match.value)}${chosen === null || chosen === index ? "" : " wa-faint"}`;
      const weight = Math.sqrt(Math.abs(match.value) / most);
      const width = 1 + 2.5 * weight;
      const [a, b] = SIDES.map((side) => {
        const [x1, y1, x2, y2] = match[`${side}_xyxy`];
        const [x, y] = onStage(side, (x1 + x2) / 2, (y1 + y2) / 2);
        const [right, bottom] = onStage(side, x2, y2);
        return { x, y, w: right - x, h: bottom - y };
      });
      /** @param {number} t 0 at the query's box, 1 at the reference's */
      const along = (t) => [a.x + (b.x - a.x) * t, a.y + (b.y - a.y) * t];
      // From rim to rim of the boxes, on the line between their centres.
      const reach = (/** @type {{ w: number, h: number }} */ { w, h }) =>
        Math.min(w / (Math.abs(b.x - a.x) || 1), h / (Math.abs(b.y - a.y) || 1), 0.5);
      const [[x1, y1], [x2, y2]] = [along(reach(a)), along(1 - reach(b))];
      const line = { x1, y1, x2, y2 };
      lines.unshift(
        svg(
          "g",
          { class: `wa-match ${kind}`, "stroke-opacity": 0.4 + 0.6 * weight },
          svg("line", { ...line, class: "wa-casing", "stroke-width": width + 2.5 }),
          svg("line", { ...line, "stroke-width": width }),
          ...drawBox("query", match.query_xyxy, "wa-box"),
          ...drawBox("reference", match.reference_xyxy, "wa-box"),
        ),
      );
      // A label takes the first free place along its line.
      const text = match.share === null ? signed(match.value) : percent(match.share);
      const half = 5 + text.length * 3.6;
      const spots = [0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73, 0.2, 0.8].map(along);
      const free = spots.find(([x, y]) =>
        taken.every(([tx, ty, th]) => Math.abs(x - tx) > half + th || Math.abs(y - ty) > 20),
      );
      const [x, y] = free ?? spots[0];
      taken.push([x, y, half]);
      labels.unshift(
        svg(
          "g",
          { class: `wa-label ${kind}`, "fill-opacity": 0.6 + 0.4 * weight },
          svg("rect", { x: x - half, y: y - 9, width: 2 * half, height: 18, rx: 9 }),
          svg("text", { x, y: y + 4 }, text),
        ),
      );
    }
    return [...lines, ...labels]; // the strongest on top
  }

  // Maps → words

  /** @param {number} value */
  function ofSimilarity(value) {
    const share = Math.abs(data.similarity) < 0.005 ? "" : ` (${percent(value / data.similarity)})`;
    return ` of the similarity ${signed(data.similarity).replace("+", "")}${share}`;
  }

  /** @param {Meeting | null} best @returns {(Node | string)[]} */
  function sayReadout(best) {
    const { view, mark, bias } = state;
    if (view === "matches") {
      const chosen = data.matches[hovered ?? state.match ?? -1];
      const shown = shownMatches();
      if (!chosen && !shown.length) return ["No match speaks this way."];
      const value = chosen ? chosen.value : shown.reduce((sum, { match }) => sum + match.value, 0);
      const who = chosen ? "This match carries " : `The ${shown.length} strongest matches carry `;
      return [who, inline("b", "", signed(value)), `${ofSimilarity(value)}.`];
    }
    if (!mark) {
      return view === "overall"
        ? [
            "Warm regions carry the similarity, blue ones speak against it. Point at one for its share.",
          ]
        : [
            "Point at either photograph, or tap it, to see what it matches in the other. Drag to mark a region.",
          ];
    }
    const value = weighted(grids[mark.side].footprint(mark), overall[mark.side][Number(bias)]);
    return [
      `This ${"xy" in mark ? "spot" : "region"} of the ${mark.side} carries `,
      inline("b", "", signed(value)),
      `${ofSimilarity(value)}${bias ? ", biases counted" : ""}`,
      best ? `; it meets the ${best.side} most strongly here ` : ".",
      best ? inline("i", `wa-dot ${signClass(best.value)}`, "●") : "",
    ];
  }

  /** For ears: the readout once it rests, with places in words. @param {Meeting | null} best */
  function speak(best) {
    const { mark, view, pinned } = state;
    let text = readout.textContent ?? "";
    /** @param {Side} side @param {XY} cell */
    const place = (side, [row, column]) =>
      `row ${row + 1} of ${grids[side].h}, column ${column + 1} of ${grids[side].w}`;
    if (mark && view !== "matches") {
      if (best) text = text.replace("here ●", `at ${place(best.side, [best.row, best.column])}.`);
      const at = grids[mark.side].cellAt("xy" in mark ? mark.xy : [mark.xyxy[0], mark.xyxy[1]]);
      const what = "xy" in mark ? "The spot is at" : "The region begins at";
      text += ` ${what} ${place(mark.side, at)}${pinned ? ", pinned" : ""}.`;
    }
    clearTimeout(speaking);
    speaking = setTimeout(() => write(spoken, text), SPEAK_AFTER);
  }

  /** What the colours mean. @param {HeatMaps} maps */
  function sayNote(maps) {
    if (state.view === "matches") {
      return "Each line joins two regions and says which part of the similarity they carry together. No region is used twice.";
    }
    if (!state.heat) return "The heat map is off.";
    const link = maps.query?.link || maps.reference?.link ? " together with the marked place" : "";
    const scale =
      state.scale === "fit"
        ? "Fit: full colour is the strongest cell of this map; colours do not compare between maps."
        : state.scale === "pair"
          ? "Pair: full colour is the strongest cell of this pair, rounded up; both photographs share it."
          : "Fixed: full colour depends on the number of cells and the size of the region only; colours compare between pairs.";
    return `Each cell shows how much of the similarity it carries${link}, in units of cosine. ${scale}`;
  }

  // State → page

  function syncControls() {
    for (const input of inputs) {
      const value = state[/** @type {keyof State} */ (input.dataset.key)];
      if (input.type === "radio") input.checked = input.value === value;
      else if (input.type === "checkbox") input.checked = Boolean(value);
      else if (input.value !== String(value)) input.value = String(value);
    }
    const matches = state.view === "matches";
    clear.hidden = !(matches ? state.match !== null : state.pinned);
    list.hidden = !matches;
    const shown = new Set(shownMatches().map(({ index }) => index));
    [...list.querySelectorAll("li")].forEach((item, index) => {
      item.hidden = !shown.has(index);
      item.firstElementChild?.setAttribute("aria-pressed", String(index === state.match));
    });
  }

  function render() {
    frame = 0;
    const maps = currentMaps();
    const best = strongest(maps);
    const { mark, view, heat, pinned } = state;
    for (const side of SIDES) {
      const map = heat ? maps[side] : null;
      const figure = figures[side];
      figure.paint(map && map.values, map ? map.full : 1, colours);
      figure.label(map, colours);
      figure.frame.classList.toggle("wa-under-map", Boolean(map));
      figure.frame.classList.toggle("wa-under-lines", view === "matches");
    }
    if (view === "matches") overlay.replaceChildren(...drawMatches());
    else if (mark && (view === "point" || pinned))
      overlay.replaceChildren(...drawMark(mark), ...drawMeeting(best));
    else overlay.replaceChildren();
    readout.replaceChildren(...sayReadout(best));
    write(note, sayNote(maps));
    speak(best);
    if (drawn === state) return;
    syncControls();
    drawn = state;
    for (const listener of listeners) listener({ ...state });
  }

  const resizes = new ResizeObserver(() => {
    const origin = stage.getBoundingClientRect();
    for (const side of SIDES) {
      const { x, y, width, height } = figures[side].canvas.getBoundingClientRect();
      places[side] = new DOMRect(x - origin.x, y - origin.y, width, height);
    }
    draw();
  });

  // Pointer, touch and keys → state. Listeners sit on the root only and go with it.

  /** @param {Event} event @returns {Side | undefined} */
  const sideOf = (event) => SIDES.find((side) => figures[side].canvas === event.target);

  /** @param {Event} event */
  const buttonOf = (event) =>
    event.target instanceof Element ? event.target.closest("button") : null;

  /** @param {PointerEvent} event @param {Side} side @returns {XY} */
  function pointAt(event, side) {
    const box = figures[side].canvas.getBoundingClientRect();
    const { x0, y0, x1, y1 } = grids[side];
    return grids[side].inside([
      x0 + ((event.clientX - box.x) / box.width) * (x1 - x0),
      y0 + ((event.clientY - box.y) / box.height) * (y1 - y0),
    ]);
  }

  /** The strongest match whose box holds a point. @param {Side} side @param {XY} xy */
  function matchAt(side, [x, y]) {
    const found = shownMatches().find(({ match }) => {
      const [x1, y1, x2, y2] = match[`${side}_xyxy`];
      return x >= x1 && x < x2 && y >= y1 && y < y2;
    });
    return found ? found.index : null;
  }

  /** @param {number | null} index */
  function hoverMatch(index) {
    if (hovered === index) return;
    hovered = index;
    draw();
  }

  /** @param {number | null} match */
  const chooseMatch = (match) => setState({ match: match === state.match ? null : match });

  /** Keys move the mark by cells. @param {Side} side @param {number} rows @param {number} columns @param {boolean} grow */
  function moveMark(side, rows, columns, grow) {
    const grid = grids[side];
    const mark = state.mark?.side === side ? state.mark : null;
    const held = growing && growing.mark === state.mark ? growing : null;
    /** @type {XY} */
    let from = [Math.floor(grid.h / 2), Math.floor(grid.w / 2)];
    if (held) from = held.cursor;
    else if (mark && "xy" in mark) from = grid.cellAt(mark.xy);
    else if (mark)
      from = grid.cellAt([(mark.xyxy[0] + mark.xyxy[2]) / 2, (mark.xyxy[1] + mark.xyxy[3]) / 2]);
    // The first key only shows where the point is.
    const step = mark ? 1 : 0;
    /** @type {XY} */
    const to = [
      clamp(from[0] + rows * step, 0, grid.h - 1),
      clamp(from[1] + columns * step, 0, grid.w - 1),
    ];
    if (!grow) {
      const [x1, y1, x2, y2] = grid.box(...to);
      setState({ mark: { side, xy: [(x1 + x2) / 2, (y1 + y2) / 2] }, view: "point" });
      return;
    }
    const anchor = held ? held.anchor : from;
    const [top, left] = [Math.min(anchor[0], to[0]), Math.min(anchor[1], to[1])];
    const xyxy = grid.box(
      top,
      left,
      Math.abs(anchor[0] - to[0]) + 1,
      Math.abs(anchor[1] - to[1]) + 1,
    );
    setState({ mark: { side, xyxy }, view: "point" });
    growing = { mark: state.mark, anchor, cursor: to };
  }

  /** @param {number} step */
  function stepMatch(step) {
    const shown = shownMatches().map(({ index }) => index);
    const at = state.match === null ? (step > 0 ? -1 : 0) : shown.indexOf(state.match);
    setState({ match: shown[(at + step + shown.length) % shown.length] ?? null });
  }

  /** @type {Record<string, () => void>} */
  const shortcuts = {
    o: () => setState({ view: "overall" }),
    p: () => setState({ view: "point" }),
    m: () => setState({ view: "matches" }),
    b: () => setState({ bias: !state.bias }),
    h: () => setState({ heat: !state.heat }),
    s: () => setState({ sign: after(["both", "positive", "negative"], state.sign) }),
    f: () => setState({ scale: after(["pair", "fixed", "fit"], state.scale) }),
  };
  /** @type {Record<string, XY>} */
  const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  /** @type {{ [type in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[type]) => void }} */
  const handlers = {
    pointerdown(event) {
      const side = sideOf(event);
      press = null; // a second finger zooms
      if (!side || event.button !== 0 || !event.isPrimary) return;
      figures[side].canvas.setPointerCapture(event.pointerId);
      press = {
        xy: pointAt(event, side),
        x: event.clientX,
        y: event.clientY,
        before: state,
        region: false,
      };
    },

    pointermove(event) {
      const side = sideOf(event);
      if (!side) return;
      const [x, y] = pointAt(event, side);
      if (state.view === "matches") {
        hoverMatch(matchAt(side, [x, y]));
      } else if (press) {
        press.region ||= Math.hypot(event.clientX - press.x, event.clientY - press.y) > CLICK_SLOP;
        const [px, py] = press.xy;
        if (!press.region || x === px || y === py) return;
        /** @type {XYXY} */
        const xyxy = [Math.min(x, px), Math.min(y, py), Math.max(x, px), Math.max(y, py)];
        setState({ mark: { side, xyxy }, pinned: true, view: "point" });
      } else if (!state.pinned && event.pointerType !== "touch") {
        setState({ mark: { side, xy: [x, y] } });
      }
    },

    pointerup(event) {
      const side = sideOf(event);
      if (side && press && !press.region) {
        const { mark, pinned } = press.before;
        const grid = grids[side];
        if (state.view === "matches") {
          chooseMatch(matchAt(side, press.xy));
        } else if (
          pinned &&
          mark?.side === side &&
          "xy" in mark &&
          String(grid.cellAt(mark.xy)) === String(grid.cellAt(press.xy))
        ) {
          setState({ pinned: false }); // the same cell again lets go
        } else {
          setState({ mark: { side, xy: press.xy }, pinned: true, view: "point" });
        }
      }
      press = null;
    },

    pointercancel() {
      if (press) setState(press.before);
      press = null;
    },

    pointerover(event) {
      const match = buttonOf(event)?.dataset.match;
      if (match && event.pointerType !== "touch") hoverMatch(Number(match));
    },

    pointerout(event) {
      hoverMatch(null);
      if (sideOf(event) && !state.pinned && !press) setState({ mark: null });
    },

    click(event) {
      const button = buttonOf(event);
      if (button?.dataset.match) chooseMatch(Number(button.dataset.match));
      if (button !== clear) return;
      figures[state.mark?.side ?? "query"].canvas.focus({ preventScroll: true }); // the button hides
      setState({ mark: null, match: null });
    },

    input(event) {
      const input = event.target;
      if (!(input instanceof HTMLInputElement) || !input.dataset.key) return;
      const value =
        input.type === "checkbox"
          ? input.checked
          : input.type === "range"
            ? Number(input.value)
            : input.value;
      setState({ [input.dataset.key]: value });
    },

    keydown(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const side = sideOf(event);
      const arrow = arrows[event.key];
      const shortcut = shortcuts[event.key.toLowerCase()];
      const matches = state.view === "matches";
      if (event.key === "Escape" && (state.mark || state.match !== null)) {
        setState({ mark: null, match: null });
      } else if (side && arrow && matches) {
        stepMatch(arrow[0] + arrow[1]);
      } else if (side && arrow) {
        moveMark(side, ...arrow, event.shiftKey);
      } else if (side && (event.key === "Enter" || event.key === " ") && !matches) {
        if (state.mark?.side !== side) moveMark(side, 0, 0, false);
        setState({ pinned: !state.pinned, view: "point" });
      } else if (shortcut) {
        shortcut();
      } else {
        return;
      }
      event.preventDefault();
    },
  };
  for (const [type, handler] of Object.entries(handlers)) {
    root.addEventListener(type, /** @type {EventListener} */ (handler));
  }
  element.append(root);
  for (const part of [stage, figures.query.frame, figures.reference.frame]) resizes.observe(part);
  setState(options.state ?? {});

  return {
    /** A copy; change it with setState. @returns {State} */
    get state() {
      return { ...state };
    },
    setState,
    /**
     * Calls back with the state after each change that was drawn.
     * @param {"change"} _ @param {(state: State) => void} listener @returns {() => void} stops it
     */
    on(_, listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    /** Takes the viewer off the page, whole. */
    destroy() {
      resizes.disconnect();
      cancelAnimationFrame(frame);
      clearTimeout(speaking);
      listeners.clear();
      root.remove();
    },
  };
}

// For the page of results, which stands below this in one script.
export {
  CLICK_SLOP,
  Grid,
  LEVELS,
  clamp,
  decodeFloats,
  find,
  inline,
  largest,
  makeColours,
  makePainter,
  percent,
};
export { roundUp, signed, svg, write };
