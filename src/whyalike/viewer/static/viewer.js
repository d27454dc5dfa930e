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
 * @typedef {object} PhotoData
 * @property {string} name
 * @property {string} src
 * @property {XY} size_wh the photograph, in its pixels
 * @property {XYXY} view_xyxy the part of it that the network saw
 * @property {XY} grid_hw
 * @property {string} overall float32 (h, w)
 * @property {string} overall_bias float32 (h, w)
 */
/** @typedef {{ encoding: "matrix", scale: number, matrix: string }} MatrixData */
/** @typedef {{ encoding: "factors", rank: number, scale: number, query: string, reference: string }} FactorData */
/** @typedef {{ query_xyxy: XYXY, reference_xyxy: XYXY, value: number, share: number }} Match */
/** @typedef {{ pairs: number, query_bias: number, reference_bias: number, bias_bias: number }} Terms */
/**
 * @typedef {object} ViewerData
 * @property {1} format
 * @property {string} model
 * @property {number} similarity
 * @property {Terms} terms
 * @property {PhotoData} query
 * @property {PhotoData} reference
 * @property {MatrixData | FactorData} links
 * @property {Match[]} matches
 */
/** @typedef {{ side: Side, xy: XY } | { side: Side, xyxy: XYXY }} Mark a point or a region */
/**
 * @typedef {object} State
 * @property {"overall" | "point" | "matches"} view
 * @property {"both" | "positive" | "negative"} sign
 * @property {"fixed" | "fit"} scale
 * @property {boolean} bias
 * @property {boolean} heat
 * @property {number} opacity 0..1
 * @property {Mark | null} mark
 * @property {boolean} pinned the mark stays when the pointer moves on
 * @property {number | null} match the chosen one of the matches
 */
/** @typedef {{ state?: Partial<State>, headingLevel?: number, theme?: "light" | "dark" }} Options */

/** @type {Side[]} */
const SIDES = ["query", "reference"];
/** @type {Record<Side, Side>} */
const OTHER = { query: "reference", reference: "query" };
/** @type {State} */
const START = {
  view: "point",
  sign: "both",
  scale: "fixed",
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
const PEAK = 10;
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
 * @param {MatrixData | FactorData} links @param {Record<Side, Grid>} grids
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
      cells.forEach((cell, k) => {
        const from = cell * rank;
        for (let c = 0; c < rank; c++) vector[c] += weights[k] * factors[side][from + c];
      });
      const rows = factors[OTHER[side]];
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
      cells.forEach((cell, k) => {
        for (let j = 0, at = cell * nr; j < nr; j++) map[j] += weights[k] * matrix[at++];
      });
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
    // Faint evidence stays visible; the legend's axis stays linear and shows the bend.
    const t = (Math.abs(level) / LEVELS) ** 0.55;
    const ramp = level > 0 ? FOR : AGAINST;
    const to = Math.max(
      1,
      ramp.findIndex(([at]) => at >= t),
    );
    const f = (t - ramp[to - 1][0]) / (ramp[to][0] - ramp[to - 1][0]);
    for (let c = 0; c < 3; c++) {
      colours[4 * (level + LEVELS) + c] = ramp[to - 1][c + 1] * (1 - f) + ramp[to][c + 1] * f;
    }
    colours[4 * (level + LEVELS) + 3] = 255 * opacity * t;
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
  const k = clamp(Math.round(MAP_PIXELS / Math.max(h, w)), 1, 16);
  const width = (canvas.width = w * k);
  const height = (canvas.height = h * k);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  /** @param {number} n */
  const samples = (n) =>
    Array.from({ length: n * k }, (_, i) => {
      const p = clamp((i + 0.5) / k, 0.5, n - 0.5) - 0.5;
      const low = Math.floor(p);
      return { low, high: Math.min(low + 1, n - 1), f: p - low };
    });
  const columns = samples(w);
  const rows = samples(h);
  const wide = new Float32Array(h * width);
  return (values, full, colours) => {
    if (!values) return context.clearRect(0, 0, width, height);
    for (let row = 0, at = 0; row < h; row++) {
      const from = row * w;
      for (const { low, high, f } of columns) {
        wide[at++] = values[from + low] * (1 - f) + values[from + high] * f;
      }
    }
    const gain = LEVELS / full;
    let at = 0;
    for (const { low, high, f } of rows) {
      const above = low * width;
      const below = high * width;
      for (let x = 0; x < width; x++) {
        const level = Math.round((wide[above + x] * (1 - f) + wide[below + x] * f) * gain);
        pixels[at++] =
          colours[LEVELS + (level > LEVELS ? LEVELS : level < -LEVELS ? -LEVELS : level)];
      }
    }
    context.putImageData(image, 0, 0);
  };
}

// ── Words and numbers ────────────────────────────────────────────────────────────────────────

/** @param {number} value @param {number} low @param {number} high */
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** "−0.0123": three digits that count, a real minus. @param {number} value */
function signed(value, digits = 3) {
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : value > 0 ? "+" : "";
  if (size && size < 1e-4) {
    const [mantissa, exponent] = size.toExponential(digits - 2).split("e");
    const power = [...exponent].map((c) => ({ "-": "⁻", "+": "" })[c] ?? "⁰¹²³⁴⁵⁶⁷⁸⁹"[+c]).join("");
    return `${sign}${mantissa}×10${power}`;
  }
  const places = size ? clamp(digits - 1 - Math.floor(Math.log10(size)), 2, 7) : 1;
  return sign + size.toFixed(places);
}

/** @param {number} value */
const exact = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(6);

/** @param {number} share */
function percent(share) {
  const size = Math.abs(100 * share);
  const digits = size < 1 ? 2 : size < 10 ? 1 : 0;
  return `${share < 0 ? "−" : ""}${size.toFixed(digits)} %`;
}

/** @typedef {Node | string | false} Child */

/**
 * An element. Text goes in as text, never as markup: file names come from strangers.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Record<string, string | number | boolean>} attributes @param {Child[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== false));
  return element;
}

/** @param {string} tag @param {Record<string, string | number>} attributes @param {Child[]} children */
function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children.filter((child) => child !== false));
  return element;
}

/** Writes only what is new, so that a hover does not lay the page out again. @param {Node} node @param {string} text */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @template T @param {T[]} values @param {T} value @returns {T} */
const after = (values, value) => values[(values.indexOf(value) + 1) % values.length];

// ── The parts of the page ────────────────────────────────────────────────────────────────────

/** @type {[string, string][]} */
const KEYS = [
  ["← ↑ → ↓", "move the point by one cell"],
  ["Shift + arrows", "grow or shrink a region"],
  ["Enter, Space", "pin what is marked"],
  ["Esc", "clear it"],
  ["O  P  M", "overall, point, matches"],
  ["B", "biases"],
  ["H", "heat map"],
  ["S", "both signs, for, against"],
  ["F", "colour scale"],
];

/** v are the regions' vectors, b the biases', which lie nowhere on an image. @type {[keyof Terms, string, string][]} */
const TERMS = [
  ["pairs", "regions × regions", "Σv^q · Σv^r"],
  ["query_bias", "query’s bias × reference’s regions", "b^q · Σv^r"],
  ["reference_bias", "query’s regions × reference’s bias", "Σv^q · b^r"],
  ["bias_bias", "bias × bias", "b^q · b^r"],
];

/**
 * One choice of several: radio buttons, so that arrow keys and screen readers know them.
 * @param {string} legend @param {string} key @param {[string, string][]} choices
 */
function buildChoice(legend, key, choices) {
  // Radio buttons of one name exclude each other across the whole document.
  const name = `wa-${key}-${Math.random().toString(36).slice(2)}`;
  return html(
    "fieldset",
    { class: `wa-choice wa-choice-${key}` },
    html("legend", { class: "wa-legend" }, legend),
    html(
      "div",
      { class: "wa-segments" },
      ...choices.map(([value, label]) =>
        html(
          "label",
          { class: `wa-segment wa-segment-${value}` },
          html("input", { type: "radio", name, value, "data-key": key }),
          html("span", {}, label),
        ),
      ),
    ),
  );
}

/** @param {string} label @param {string} key @param {string} title */
const buildToggle = (label, key, title) =>
  html(
    "label",
    { class: "wa-toggle", title },
    html("input", { type: "checkbox", "data-key": key }),
    html("span", {}, label),
  );

/** The four terms as a waterfall that ends at the similarity. @param {ViewerData} data */
function buildLedger(data) {
  const values = TERMS.map(([key]) => data.terms[key]);
  const ends = values.reduce((sums, value) => [...sums, sums[sums.length - 1] + value], [0]);
  const low = Math.min(...ends, data.similarity);
  const span = Math.max(...ends, data.similarity) - low || 1;
  /** @param {string} label @param {string} symbol @param {number} from @param {number} value @param {string} kind */
  const row = (label, symbol, from, value, kind) => {
    const bar = html("span", {
      class: `wa-bar wa-bar-${kind}`,
      title: `${label}: ${exact(value)}`,
    });
    bar.style.left = `${(100 * (Math.min(from, from + value) - low)) / span}%`;
    bar.style.width = `${(100 * Math.abs(value)) / span}%`;
    const zero = html("span", { class: "wa-zero" });
    const powers = symbol.split(/\^(.)/).map((text, i) => (i % 2 ? html("sup", {}, text) : text));
    zero.style.left = `${(-100 * low) / span}%`;
    return html(
      "tr",
      { class: `wa-row-${kind}` },
      html("th", { scope: "row" }, label, " ", html("span", { class: "wa-symbol" }, ...powers)),
      html(
        "td",
        { class: "wa-bars", "aria-hidden": "true" },
        html("span", { class: "wa-track" }, zero, bar),
      ),
      html("td", { class: "wa-number" }, exact(value)),
    );
  };
  return html(
    "section",
    { class: "wa-ledger" },
    html(
      "table",
      {},
      html("caption", {}, "What the similarity is made of"),
      html(
        "tbody",
        {},
        ...TERMS.map(([, label, symbol], i) =>
          row(label, symbol, ends[i], values[i], values[i] < 0 ? "against" : "for"),
        ),
        row("Similarity", "cosine", 0, data.similarity, "sum"),
      ),
    ),
  );
}

/** @param {ViewerData} data @param {Side} side @param {string} help */
function buildFigure(data, side, help) {
  const photo = data[side];
  const [width, height] = photo.size_wh;
  const [x0, y0, x1, y1] = photo.view_xyxy;
  const canvas = html("canvas", {
    class: "wa-map",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "map",
    "aria-label": `${side === "query" ? "Query" : "Reference"} photograph ${photo.name}, ${photo.grid_hw[0]} rows of ${photo.grid_hw[1]} cells`,
    "aria-describedby": help,
  });
  const view = html("div", { class: "wa-view" }, canvas);
  view.style.left = `${(100 * x0) / width}%`;
  view.style.top = `${(100 * y0) / height}%`;
  view.style.width = `${(100 * (x1 - x0)) / width}%`;
  view.style.height = `${(100 * (y1 - y0)) / height}%`;
  const bar = html("canvas", {
    class: "wa-scale-bar",
    width: 2 * LEVELS + 1,
    height: 1,
    "aria-hidden": "true",
  });
  const low = html("span");
  const high = html("span");
  const legend = html(
    "span",
    { class: "wa-scale" },
    low,
    bar,
    high,
    html("span", { class: "wa-unit" }, "per cell"),
  );
  /** @type {Uint32Array | null} */
  let shown = null;
  /** @param {Uint32Array} colours */
  const shade = (colours) => {
    if (colours === shown) return;
    shown = colours;
    const image = new ImageData(new Uint8ClampedArray(colours.slice().buffer), colours.length, 1);
    bar.getContext("2d")?.putImageData(image, 0, 0);
  };
  const frame = html(
    "div",
    { class: "wa-frame" },
    html("img", { src: photo.src, alt: "", draggable: "false" }),
    view,
  );
  const figure = html(
    "figure",
    { class: "wa-figure" },
    html(
      "figcaption",
      {},
      html(
        "span",
        { class: "wa-name" },
        html("b", {}, side),
        " ",
        html("span", { title: photo.name }, photo.name),
      ),
      legend,
    ),
    frame,
  );
  figure.style.setProperty("--wa-aspect", String(width / height));
  return { figure, frame, canvas, legend, low, high, shade };
}

// ── The viewer ───────────────────────────────────────────────────────────────────────────────

/**
 * Builds the viewer inside an element.
 * @param {HTMLElement} element @param {ViewerData} data @param {Options} options
 */
export function mount(element, data, options = {}) {
  if (data.format !== 1) {
    throw new Error(
      `the viewer reads data of format 1; came ${data.format}; take the module that wrote it`,
    );
  }
  const grids = { query: new Grid(data.query), reference: new Grid(data.reference) };
  const overall = {
    query: [decodeFloats(data.query.overall), decodeFloats(data.query.overall_bias)],
    reference: [decodeFloats(data.reference.overall), decodeFloats(data.reference.overall_bias)],
  };
  const linkMap = makeLinks(data.links, grids);

  // The page. Everything is built once; render changes it.
  const help = `wa-help-${Math.random().toString(36).slice(2)}`;
  const parts = {
    query: buildFigure(data, "query", help),
    reference: buildFigure(data, "reference", help),
  };
  const painters = {
    query: makePainter(parts.query.canvas, grids.query.h, grids.query.w),
    reference: makePainter(parts.reference.canvas, grids.reference.h, grids.reference.w),
  };
  const overlay = /** @type {SVGSVGElement} */ (
    svg("svg", { class: "wa-overlay", "aria-hidden": "true" })
  );
  const stage = html(
    "div",
    { class: "wa-stage" },
    parts.query.figure,
    parts.reference.figure,
    overlay,
  );
  const aspects = SIDES.reduce(
    (sum, side) => sum + data[side].size_wh[0] / data[side].size_wh[1],
    0,
  );
  stage.style.setProperty("--wa-sum", String(aspects));
  const main = html("div", { class: "wa-main" });
  main.dataset.shape = aspects < 1.8 ? "tall" : aspects > 4.5 ? "wide" : "usual";

  const readout = html("p", { class: "wa-readout" });
  const clear = html("button", { class: "wa-clear", type: "button" }, "Clear");
  const spoken = html("p", { class: "wa-hidden", "aria-live": "polite" });
  const list = html("ol", { class: "wa-matches", "aria-label": "Strongest matches" });
  const note = html("p", { class: "wa-note" });
  const opacity = html("input", {
    type: "range",
    min: 0,
    max: 1,
    step: 0.05,
    "data-key": "opacity",
  });
  const root = html(
    "section",
    { class: "wa-root", "aria-label": "Why are these two images alike?" },
    html(
      "header",
      { class: "wa-header" },
      html(
        /** @type {"h2"} */ (`h${options.headingLevel ?? 2}`),
        {},
        "Why are these two images alike?",
      ),
      html(
        "p",
        { class: "wa-lead" },
        "A network’s similarity score is a sum over all pairs of regions, one from each photograph. Point at a region to see what it matches in the other photograph, and how much of the score it carries.",
      ),
      html(
        "p",
        { class: "wa-score", title: `cosine similarity ${exact(data.similarity)}` },
        html("strong", {}, signed(data.similarity).replace("+", "")),
        " ",
        html("span", {}, "similarity"),
      ),
    ),
    main,
    html(
      "footer",
      { class: "wa-footer" },
      data.model && html("p", {}, data.model),
      html(
        "details",
        {},
        html("summary", {}, "Keys"),
        html(
          "dl",
          {},
          ...KEYS.map(([key, what]) => html("div", {}, html("dt", {}, key), html("dd", {}, what))),
        ),
      ),
    ),
  );
  main.append(
    html(
      "div",
      {},
      buildChoice("View", "view", [
        ["overall", "Overall"],
        ["point", "Point or region"],
        ["matches", "Matches"],
      ]),
      stage,
    ),
    html(
      "div",
      {},
      html("div", { class: "wa-says" }, readout, clear),
      list,
      spoken,
      html(
        "p",
        { class: "wa-hidden", id: help },
        "Arrow keys move a point, with shift they draw a region; Enter pins, Escape clears.",
      ),
      html(
        "div",
        { class: "wa-lower" },
        html(
          "div",
          { class: "wa-controls" },
          buildChoice("Evidence", "sign", [
            ["both", "Both"],
            ["positive", "For"],
            ["negative", "Against"],
          ]),
          buildChoice("Colour scale", "scale", [
            ["fixed", "Fixed"],
            ["fit", "Fit"],
          ]),
          html(
            "fieldset",
            { class: "wa-choice" },
            html("legend", { class: "wa-legend" }, "Heat map"),
            html(
              "div",
              { class: "wa-heat" },
              buildToggle("Show", "heat", "Heat map (H)"),
              html("label", { class: "wa-opacity" }, html("span", {}, "Opacity"), opacity),
              buildToggle(
                "With biases",
                "bias",
                "Count what each region shares with the other image’s bias too (B)",
              ),
            ),
          ),
          note,
        ),
        buildLedger(data),
      ),
    ),
  );
  if (options.theme) root.style.colorScheme = options.theme;

  /** @type {State} */
  let state = { ...START };
  /** @type {Set<(state: State) => void>} */
  const listeners = new Set();
  let frame = 0;
  let speaking = 0;
  /** @type {number | null} */
  let hovered = null; // the match under the pointer
  /** @type {{ xy: XY, x: number, y: number, before: State, region: boolean } | null} */
  let press = null;
  /** @type {{ mark: Mark, anchor: XY, cursor: XY } | null} */
  let growing = null; // the region that shift + arrows grow, in cells
  let colours = makeColours(state.sign, state.opacity);
  /** Where the pictures' views are on the stage, in css pixels. @type {Record<Side, DOMRect>} */
  const places = { query: new DOMRect(), reference: new DOMRect() };

  /** @param {Partial<State>} partial */
  function setState(partial) {
    const next = { ...state, ...partial };
    if (next.mark && "xy" in next.mark) {
      next.mark = { side: next.mark.side, xy: grids[next.mark.side].inside(next.mark.xy) };
    }
    if (!next.mark) next.pinned = false;
    next.opacity = clamp(next.opacity, 0, 1);
    if (next.sign !== state.sign || next.opacity !== state.opacity)
      colours = makeColours(next.sign, next.opacity);
    state = next;
    if (!frame) frame = requestAnimationFrame(render);
  }

  // Rendering

  /** @typedef {{ values: Float32Array, full: number, kind: "overall" | "link" }} HeatMap */

  /** @returns {Record<Side, HeatMap | null>} */
  function currentMaps() {
    const { view, mark, bias, scale } = state;
    /** @type {Record<Side, HeatMap | null>} */
    const maps = { query: null, reference: null };
    if (view === "point" && mark) {
      const footprint = grids[mark.side].footprint(mark);
      const values = linkMap(mark.side, footprint);
      const share = Math.min(1, (PEAK * footprint.sum) / grids[mark.side].n);
      maps[OTHER[mark.side]] = { values, full: (PEAK * share) / values.length, kind: "link" };
    } else if (view !== "matches") {
      for (const side of SIDES) {
        maps[side] = {
          values: overall[side][bias ? 1 : 0],
          full: PEAK / grids[side].n,
          kind: "overall",
        };
      }
    }
    for (const side of SIDES) {
      const map = maps[side];
      if (map && scale === "fit")
        map.full = map.values.reduce((most, v) => Math.max(most, Math.abs(v)), 0) || 1;
    }
    return maps;
  }

  /** The cell of a map where the evidence shown is strongest. @param {Float32Array} values */
  function strongest(values) {
    const { sign } = state;
    let best = -1;
    let most = 0;
    values.forEach((v, i) => {
      const size = sign === "positive" ? v : sign === "negative" ? -v : Math.abs(v);
      if (size > most) [most, best] = [size, i];
    });
    return best;
  }

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
    const [x1, y1] = onStage(side, xyxy[0], xyxy[1]);
    const [x2, y2] = onStage(side, xyxy[2], xyxy[3]);
    const box = { x: x1, y: y1, width: Math.max(x2 - x1, 1), height: Math.max(y2 - y1, 1), rx: 2 };
    return [svg("rect", { ...box, class: "wa-casing" }), svg("rect", { ...box, class: kind })];
  }

  /** @param {Mark} mark */
  function drawMark(mark) {
    const kind = state.pinned ? "wa-mark wa-pinned" : "wa-mark";
    if ("xyxy" in mark) return drawBox(mark.side, mark.xyxy, kind);
    const [cx, cy] = onStage(mark.side, ...mark.xy);
    const { dx, dy } = grids[mark.side];
    // The ring is as large as a cell: what is marked is a cell's worth, not a pixel.
    const [ex] = onStage(mark.side, mark.xy[0] + Math.min(dx, dy), mark.xy[1]);
    const ring = { cx, cy, r: clamp((ex - cx) / 2, 7, 26) };
    return [
      svg("circle", { ...ring, class: "wa-casing" }),
      svg("circle", { ...ring, class: kind }),
      svg("circle", { cx, cy, r: 2, class: "wa-centre" }),
    ];
  }

  /** @param {Side} side @param {Float32Array} values */
  function drawStrongest(side, values) {
    const best = strongest(values);
    if (best < 0) return [];
    const { w, h, x0, y0, dx, dy } = grids[side];
    const [cx, cy] = onStage(
      side,
      x0 + ((best % w) + 0.5) * dx,
      y0 + (Math.floor(best / w) + 0.5) * dy,
    );
    return h * w > 1
      ? [
          svg("circle", {
            cx,
            cy,
            r: 5,
            class: values[best] < 0 ? "wa-dot wa-against" : "wa-dot wa-for",
          }),
        ]
      : [];
  }

  /** The matches that the choice of signs lets through, with their place in the data. */
  const shownMatches = () =>
    data.matches
      .map((match, index) => ({ match, index }))
      .filter(({ match: { value } }) =>
        state.sign === "both" ? true : state.sign === "positive" ? value > 0 : value < 0,
      );

  function drawMatches() {
    const chosen = hovered ?? state.match;
    const shown = shownMatches();
    const most = Math.max(...shown.map(({ match }) => Math.abs(match.value)));
    /** @type {Node[]} */
    const lines = [];
    /** @type {Node[]} */
    const labels = [];
    /** @type {number[][]} */
    const taken = [];
    for (const { match, index } of shown) {
      // From the rim of one box to the rim of the other, along the line between their centres.
      const [a, b] = SIDES.map((side) => {
        const [x1, y1, x2, y2] = match[`${side}_xyxy`];
        const [x, y] = onStage(side, (x1 + x2) / 2, (y1 + y2) / 2);
        const [rx, ry] = onStage(side, x2, y2);
        return { x, y, rx: rx - x, ry: ry - y };
      });
      const [tx, ty] = [Math.abs(b.x - a.x), Math.abs(b.y - a.y)];
      const [ta, tb] = [a, b].map(({ rx, ry }) => Math.min(rx / tx, ry / ty, 0.5));
      const [ax, ay, bx, by] = [
        a.x + (b.x - a.x) * ta,
        a.y + (b.y - a.y) * ta,
        b.x - (b.x - a.x) * tb,
        b.y - (b.y - a.y) * tb,
      ];
      const line = { x1: ax, y1: ay, x2: bx, y2: by };
      const dim = chosen !== null && chosen !== index ? " wa-dim" : "";
      const kind = `${match.value < 0 ? "wa-against" : "wa-for"}`;
      const weight = Math.sqrt(Math.abs(match.value) / most);
      const width = 1 + 2.5 * weight;
      const group = svg(
        "g",
        { class: `wa-match ${kind}${dim}`, "stroke-opacity": 0.4 + 0.6 * weight },
        svg("line", { ...line, class: "wa-casing", "stroke-width": width + 2.5 }),
        svg("line", { ...line, "stroke-width": width }),
        ...drawBox("query", match.query_xyxy, "wa-box"),
        ...drawBox("reference", match.reference_xyxy, "wa-box"),
      );
      lines.unshift(group); // the strongest last, on top
      // Labels try places along their line until one is free.
      const text = percent(match.share);
      const half = 5 + text.length * 3.6;
      const spots = [0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73, 0.2, 0.8].map((t) => [
        ax + (bx - ax) * t,
        ay + (by - ay) * t,
      ]);
      const free = spots.find(([x, y]) =>
        taken.every(([tx, ty, th]) => Math.abs(x - tx) > half + th || Math.abs(y - ty) > 20),
      );
      const [x, y] = free ?? spots[0];
      taken.push([x, y, half]);
      labels.unshift(
        svg(
          "g",
          { class: `wa-label ${kind}${dim}` },
          svg("rect", { x: x - half, y: y - 9, width: 2 * half, height: 18, rx: 9 }),
          svg("text", { x, y: y + 4 }, text),
        ),
      );
    }
    return [...lines, ...labels];
  }

  /** @param {Record<Side, HeatMap | null>} maps @returns {Child[]} */
  function sayReadout(maps) {
    const { view, mark, bias } = state;
    const total = signed(data.similarity).replace("+", "");
    /** @param {number} value */
    const share = (value) =>
      Math.abs(data.similarity) < 0.005 ? "" : ` (${percent(value / data.similarity)})`;
    if (view === "matches") {
      const chosen = hovered ?? state.match;
      const shown = shownMatches();
      if (!shown.length) return ["No match of this sign."];
      if (chosen !== null && data.matches[chosen]) {
        const { value } = data.matches[chosen];
        return [
          `Match ${chosen + 1} carries `,
          html("b", {}, signed(value)),
          ` of the similarity ${total}${share(value)}.`,
        ];
      }
      const sum = shown.reduce((sum, { match }) => sum + match.value, 0);
      return [
        `The ${shown.length} strongest matches carry `,
        html("b", {}, signed(sum)),
        ` of the similarity ${total}${share(sum)}.`,
      ];
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
    const value = weighted(grids[mark.side].footprint(mark), overall[mark.side][bias ? 1 : 0]);
    const map = maps[OTHER[mark.side]];
    const best = map && map.kind === "link" ? strongest(map.values) : -1;
    return [
      `This ${"xy" in mark ? "spot" : "region"} of the ${mark.side} carries `,
      html("b", {}, signed(value)),
      ` of the similarity ${total}${share(value)}${bias ? ", biases counted" : ""}`,
      best < 0 ? "." : `; it meets the ${OTHER[mark.side]} most strongly here `,
      best >= 0 &&
        html(
          "i",
          { class: map && map.values[best] < 0 ? "wa-dot wa-against" : "wa-dot wa-for" },
          "●",
        ),
    ];
  }

  /** For ears: the same, with places in words. @param {Record<Side, HeatMap | null>} maps */
  function speak(maps) {
    const { mark, view } = state;
    let text = readout.textContent ?? "";
    if (mark && view !== "matches") {
      const place = (
        /** @type {Side} */ side,
        /** @type {number} */ row,
        /** @type {number} */ column,
      ) => `row ${row + 1} of ${grids[side].h}, column ${column + 1} of ${grids[side].w}`;
      const at = "xy" in mark ? mark.xy : /** @type {XY} */ ([mark.xyxy[0], mark.xyxy[1]]);
      const other = OTHER[mark.side];
      const best =
        maps[other]?.kind === "link" ? strongest(/** @type {HeatMap} */ (maps[other]).values) : -1;
      text = text.replace(
        "here ●",
        `at ${place(other, Math.floor(best / grids[other].w), best % grids[other].w)}.`,
      );
      text += ` ${"xy" in mark ? "Spot" : "Region"} at ${place(mark.side, ...grids[mark.side].cellAt(at))}${state.pinned ? ", pinned" : ""}.`;
    }
    clearTimeout(speaking);
    speaking = setTimeout(() => write(spoken, text), SPEAK_AFTER);
  }

  /** @param {Record<Side, HeatMap | null>} maps */
  function sayNote(maps) {
    if (state.view === "matches") {
      return "Each line joins two regions, each used once, and says which part of the similarity the two carry together.";
    }
    if (!state.heat) return "The heat map is off.";
    const link = maps.query?.kind === "link" || maps.reference?.kind === "link";
    const what = link
      ? "Each cell shows how much of the similarity it carries together with the marked place, in units of cosine."
      : "Each cell shows how much of the similarity it carries, in units of cosine.";
    return `${what} ${
      state.scale === "fit"
        ? "Fit: full colour is the strongest cell of this map; colours do not compare between maps."
        : "Fixed: full colour depends on the number of cells and the size of the region only; colours compare between pairs."
    }`;
  }

  function syncControls() {
    for (const input of root.querySelectorAll("input")) {
      const value = state[/** @type {keyof State} */ (input.dataset.key)];
      if (input.type === "radio") input.checked = input.value === value;
      else if (input.type === "checkbox") input.checked = Boolean(value);
      else if (input.value !== String(value)) input.value = String(value);
    }
    clear.hidden = !(state.pinned || (state.view === "matches" && state.match !== null));
    list.hidden = state.view !== "matches";
    if (list.hidden) return;
    if (!list.childElementCount) {
      list.append(
        ...data.matches.map((match, index) =>
          html(
            "li",
            {},
            html(
              "button",
              {
                type: "button",
                class: match.value < 0 ? "wa-against" : "wa-for",
                "data-match": index,
              },
              html("b", {}, percent(match.share)),
              " ",
              html("span", {}, signed(match.value)),
            ),
          ),
        ),
      );
    }
    const shown = new Set(shownMatches().map(({ index }) => index));
    [...list.children].forEach((item, index) => {
      /** @type {HTMLElement} */ (item).hidden = !shown.has(index);
      item.firstElementChild?.setAttribute("aria-pressed", String(index === state.match));
    });
  }

  let drawn = /** @type {State | null} */ (null);

  function render() {
    frame = 0;
    const maps = currentMaps();
    const { mark, view, heat } = state;
    for (const side of SIDES) {
      const map = heat ? maps[side] : null;
      const { frame: box, legend, low, high, shade } = parts[side];
      painters[side](map && map.values, map ? map.full : 1, colours);
      box.classList.toggle("wa-under-map", Boolean(map));
      box.classList.toggle("wa-under-lines", view === "matches");
      legend.classList.toggle("wa-off", !map);
      if (map) {
        write(low, signed(-map.full));
        write(high, signed(map.full));
        shade(colours);
      }
    }

    const shown = [];
    if (view === "matches") shown.push(...drawMatches());
    else if (mark && (view === "point" || state.pinned)) {
      shown.push(...drawMark(mark));
      const other = OTHER[mark.side];
      const map = maps[other];
      if (map && map.kind === "link") shown.push(...drawStrongest(other, map.values));
    }
    overlay.replaceChildren(...shown);
    readout.replaceChildren(.../** @type {(Node | string)[]} */ (sayReadout(maps).filter(Boolean)));
    write(note, sayNote(maps));
    speak(maps);
    syncControls();
    if (drawn !== state) {
      drawn = state;
      for (const listener of listeners) listener({ ...state });
    }
  }

  function measure() {
    const origin = stage.getBoundingClientRect();
    for (const side of SIDES) {
      const { x, y, width, height } = parts[side].canvas.getBoundingClientRect();
      places[side] = new DOMRect(x - origin.x, y - origin.y, width, height);
    }
    if (!frame) frame = requestAnimationFrame(render);
  }

  // Pointer, touch, keys. Listeners sit on the root only and go with it.

  /** @param {Event} event @returns {Side | undefined} */
  const sideOf = (event) => SIDES.find((side) => parts[side].canvas === event.target);

  /** @param {PointerEvent} event @param {Side} side @returns {XY} */
  function pointAt(event, side) {
    const box = parts[side].canvas.getBoundingClientRect();
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
    if (!frame) frame = requestAnimationFrame(render);
  }

  /** @param {PointerEvent} event */
  function onPointerDown(event) {
    const side = sideOf(event);
    if (!side || event.button !== 0 || !event.isPrimary) {
      press = null; // a second finger zooms
      return;
    }
    /** @type {HTMLElement} */ (event.target).setPointerCapture(event.pointerId);
    press = {
      xy: pointAt(event, side),
      x: event.clientX,
      y: event.clientY,
      before: state,
      region: false,
    };
  }

  /** @param {PointerEvent} event */
  function onPointerMove(event) {
    const side = sideOf(event);
    if (!side) return;
    const xy = pointAt(event, side);
    if (state.view === "matches") {
      hoverMatch(matchAt(side, xy));
    } else if (press) {
      if (Math.hypot(event.clientX - press.x, event.clientY - press.y) > CLICK_SLOP)
        press.region = true;
      if (!press.region) return;
      /** @type {XYXY} */
      const xyxy = [
        Math.min(xy[0], press.xy[0]),
        Math.min(xy[1], press.xy[1]),
        Math.max(xy[0], press.xy[0]),
        Math.max(xy[1], press.xy[1]),
      ];
      if (xyxy[2] > xyxy[0] && xyxy[3] > xyxy[1])
        setState({ mark: { side, xyxy }, pinned: true, view: "point" });
    } else if (!state.pinned && event.pointerType !== "touch") {
      setState({ mark: { side, xy } });
    }
  }

  /** @param {PointerEvent} event */
  function onPointerUp(event) {
    const side = sideOf(event);
    if (side && press && !press.region) {
      if (state.view === "matches") {
        const match = matchAt(side, press.xy);
        setState({ match: match === state.match ? null : match });
      } else {
        const { mark, pinned } = press.before;
        const again =
          pinned &&
          mark &&
          mark.side === side &&
          "xy" in mark &&
          grids[side].cellAt(mark.xy).join() === grids[side].cellAt(press.xy).join();
        setState(
          again ? { pinned: false } : { mark: { side, xy: press.xy }, pinned: true, view: "point" },
        );
      }
    }
    press = null;
  }

  function onPointerCancel() {
    if (press) setState({ ...press.before });
    press = null;
  }

  /** @param {PointerEvent} event */
  function onPointerOut(event) {
    const button = /** @type {HTMLElement} */ (event.target).closest("button[data-match]");
    if (button || (sideOf(event) && state.view === "matches")) hoverMatch(null);
    else if (sideOf(event) && !state.pinned && !press) setState({ mark: null });
  }

  /** @param {Side} side @param {number} rows @param {number} columns @param {boolean} grow */
  function moveMark(side, rows, columns, grow) {
    const grid = grids[side];
    const mark = state.mark && state.mark.side === side ? state.mark : null;
    /** @type {XY} */
    let from = mark
      ? grid.cellAt(
          "xy" in mark
            ? mark.xy
            : [(mark.xyxy[0] + mark.xyxy[2]) / 2, (mark.xyxy[1] + mark.xyxy[3]) / 2],
        )
      : [Math.floor(grid.h / 2), Math.floor(grid.w / 2)];
    if (!mark) [rows, columns] = [0, 0]; // the first key shows where the point is
    if (growing && growing.mark === state.mark) from = growing.cursor;
    /** @type {XY} */
    const to = [clamp(from[0] + rows, 0, grid.h - 1), clamp(from[1] + columns, 0, grid.w - 1)];
    if (!grow) {
      const [x1, y1, x2, y2] = grid.box(...to);
      setState({ mark: { side, xy: [(x1 + x2) / 2, (y1 + y2) / 2] }, view: "point" });
      return;
    }
    const anchor = growing && growing.mark === state.mark ? growing.anchor : from;
    const [row, column] = [Math.min(anchor[0], to[0]), Math.min(anchor[1], to[1])];
    const xyxy = grid.box(
      row,
      column,
      Math.abs(anchor[0] - to[0]) + 1,
      Math.abs(anchor[1] - to[1]) + 1,
    );
    setState({ mark: { side, xyxy }, view: "point" });
    growing = { mark: /** @type {Mark} */ (state.mark), anchor, cursor: to };
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
    f: () => setState({ scale: after(["fixed", "fit"], state.scale) }),
  };
  /** @type {Record<string, XY>} */
  const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  /** @param {KeyboardEvent} event */
  function onKeyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const side = sideOf(event);
    const arrow = arrows[event.key];
    const shortcut = shortcuts[event.key.toLowerCase()];
    if (event.key === "Escape" && (state.mark || state.match !== null)) {
      setState({ mark: null, match: null });
    } else if (side && arrow) {
      if (state.view === "matches") stepMatch(arrow[0] + arrow[1]);
      else moveMark(side, ...arrow, event.shiftKey);
    } else if (side && (event.key === "Enter" || event.key === " ") && state.view !== "matches") {
      if (state.mark && state.mark.side === side)
        setState({ pinned: !state.pinned, view: "point" });
      else moveMark(side, 0, 0, false);
    } else if (shortcut) {
      shortcut();
    } else {
      return;
    }
    event.preventDefault();
  }

  /** @param {Event} event */
  function onInput(event) {
    const input = /** @type {HTMLInputElement} */ (event.target);
    const value =
      input.type === "checkbox"
        ? input.checked
        : input.type === "range"
          ? Number(input.value)
          : input.value;
    if (input.dataset.key) setState({ [input.dataset.key]: value });
  }

  /** @param {MouseEvent} event */
  function onClick(event) {
    const button = /** @type {HTMLElement} */ (event.target).closest("button");
    if (button === clear) {
      setState({ mark: null, match: null });
      parts.query.canvas.focus({ preventScroll: true }); // the button hides
    } else if (button?.dataset.match) {
      const match = Number(button.dataset.match);
      setState({ match: match === state.match ? null : match });
    }
  }

  /** @param {PointerEvent} event */
  function onPointerOver(event) {
    const button = /** @type {HTMLElement} */ (event.target).closest("button");
    if (button?.dataset.match && event.pointerType !== "touch")
      hoverMatch(Number(button.dataset.match));
  }

  root.addEventListener("pointerdown", onPointerDown);
  root.addEventListener("pointermove", onPointerMove);
  root.addEventListener("pointerup", onPointerUp);
  root.addEventListener("pointercancel", onPointerCancel);
  root.addEventListener("pointerout", onPointerOut);
  root.addEventListener("pointerover", onPointerOver);
  root.addEventListener("keydown", onKeyDown);
  root.addEventListener("input", onInput);
  root.addEventListener("click", onClick);
  const resizes = new ResizeObserver(measure);
  for (const part of [stage, parts.query.frame, parts.reference.frame]) resizes.observe(part);
  element.append(root);
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
