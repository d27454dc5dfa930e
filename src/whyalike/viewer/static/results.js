// @ts-check
/**
 * What a search found: the query with what was asked for, the ranking by that and the ranking by
 * the whole photograph side by side, each hit with its map, and each pair one click away.
 */

import {
  LEVELS,
  decodeFloats,
  find,
  inline,
  largest,
  makeColours,
  makePainter,
  mount,
  percent,
  roundUp,
  signed,
  svg,
  write,
} from "./viewer.js";

/** @typedef {import("./viewer.js").XY} XY */
/** @typedef {import("./viewer.js").XYXY} XYXY */
/** @typedef {import("./viewer.js").ViewerData} ViewerData */
/**
 * The query; `shade` is a layer over it where masks were given.
 * @typedef {{ name: string, src: string, size_wh: XY, view_xyxy: XYXY, boxes: XYXY[], points: XY[], masks: number, weights: number[], without: XYXY[], without_masks: number, shade: string | null }} QueryData
 */
/**
 * A photograph that was found; `map` is float32, row by row: what each cell carries of the score.
 * A pair's photographs have no pictures: they are those of the page.
 * @typedef {{ name: string, path: string, fields: [string, string][], src: string, missing: boolean, size_wh: XY, view_xyxy: XYXY, map: { grid_hw: XY, values: string } | null, pair: ViewerData | null }} FoundData
 */
/** @typedef {{ photo: number, rank: number, score: number, similarity: number, other: number | null }} HitData `other`: its rank in the other ranking, where known */
/**
 * @typedef {object} ResultsData
 * @property {1} format
 * @property {string} model
 * @property {number} images in the gallery
 * @property {string | null} where
 * @property {"none" | "full" | "pq"} maps
 * @property {string | null} approximate what an index that was searched misses
 * @property {QueryData} query
 * @property {boolean} whole the whole photograph was searched for
 * @property {FoundData[]} photos
 * @property {HitData[]} hits
 * @property {HitData[]} by_whole
 */
/** @typedef {Pick<ResultsData, "whole" | "photos" | "hits" | "by_whole">} Searched */
/** @typedef {"hits" | "by_whole"} Ranking */
/** @typedef {{ ranking: Ranking, index: number }} Opened */

const HIT = `
  <li class="wr-hit">
    <span class="wr-rank" aria-hidden="true"></span>
    <span class="wr-picture">
      <span class="wa-frame wr-frame"><img alt="" draggable="false"></span>
    </span>
    <div class="wr-words">
      <p class="wr-name"></p>
      <p class="wr-score"><b></b> <span></span></p>
      <p class="wr-bar" aria-hidden="true"><i class="wr-all"></i><i class="wr-part"></i></p>
      <p class="wr-moved"></p>
      <dl class="wr-fields"></dl>
    </div>
  </li>`;

const RESULTS = `
  <section class="wa-root wr-root">
    <header class="wr-header">
      <h1></h1>
      <p class="wa-lead wr-lead"></p>
      <p class="wr-warning" hidden></p>
    </header>
    <div class="wr-main">
      <div class="wr-aside">
        <figure class="wr-query">
          <figcaption><b>Query</b> <span></span></figcaption>
          <div class="wa-frame">
            <img alt="" draggable="false">
            <div class="wa-view"></div>
            <svg class="wa-overlay wr-marks" preserveAspectRatio="none" aria-hidden="true"></svg>
          </div>
        </figure>
        <p class="wr-asked"></p>
        <div class="wr-heat">
          <label class="wa-toggle" title="Heat map (H)">
            <input type="checkbox" checked><span>Heat maps</span>
          </label>
          <span class="wa-scale">
            <span></span><canvas height="1" aria-hidden="true"></canvas><span></span>
            <span>per cell</span>
          </span>
        </div>
        <p class="wr-note"></p>
        <p class="wr-note wr-keys">Keys: arrows move between hits, Enter opens one, Escape comes back, H turns the maps off.</p>
      </div>
      <div class="wr-rankings">
        <section class="wr-ranking" data-ranking="hits"><h2></h2><ol></ol></section>
        <section class="wr-ranking" data-ranking="by_whole"><h2></h2><ol></ol></section>
        <svg class="wr-ties" aria-hidden="true"></svg>
      </div>
    </div>
    <footer class="wa-footer"><p></p></footer>
  </section>
  <section class="wr-pair" tabindex="-1" aria-label="A hit and the query" hidden>
    <nav class="wa-root wr-nav" aria-label="Hits">
      <button type="button" class="wr-back">← All results</button>
      <span class="wr-steps">
        <button type="button" aria-label="Previous hit">‹</button>
        <button type="button" aria-label="Next hit">›</button>
      </span>
      <span class="wr-where"></span>
    </nav>
    <div class="wr-viewer"></div>
  </section>`;

// ── Words ────────────────────────────────────────────────────────────────────────────────────

/** @param {number} n */
function ordinal(n) {
  const tail = n % 100 > 10 && n % 100 < 14 ? "th" : (["th", "st", "nd", "rd"][n % 10] ?? "th");
  return n.toLocaleString("en") + tail;
}

/** @param {number} n @param {string} one @param {string} several */
const counted = (n, one, several) => `${n.toLocaleString("en")} ${n === 1 ? one : several}`;

/** What was searched for. @param {QueryData} query */
function sayAsked(query) {
  const parts = [
    query.boxes.length ? counted(query.boxes.length, "box", "boxes") : "",
    query.points.length ? counted(query.points.length, "point", "points") : "",
    query.masks ? counted(query.masks, "mask", "masks") : "",
  ].filter(Boolean);
  const left = query.without.length + query.without_masks;
  const asked = parts.join(", ") || "the whole photograph";
  const weights = query.weights.some((w) => w !== 1)
    ? `, weighted ${query.weights.map((w) => signed(w).replace(/\.?0+$/, "")).join(", ")}`
    : "";
  const less = left ? `, less ${counted(left, "region", "regions")} (dashed, blue)` : "";
  return `Searched for: ${asked}${weights}${less}.`;
}

/** Beside the score. @param {HitData} hit @param {boolean} whole */
function sayShare({ score, similarity }, whole) {
  if (whole) return "similarity";
  const all = signed(similarity).replace("+", "");
  return Math.abs(similarity) < 0.005 ? `of ${all}` : `= ${percent(score / similarity)} of ${all}`;
}

/** @param {HitData} hit @param {Ranking} ranking @param {Searched} data */
function sayMoved({ rank, other }, ranking, data) {
  if (data.whole) return "";
  if (ranking === "by_whole") {
    return other === null
      ? `beyond ${ordinal(data.hits.length)} with the region`
      : `${ordinal(other)} with the region`;
  }
  if (other === null) return "rank without the region not known";
  if (other === rank) return `was ${ordinal(other)}, too`;
  return `${other > rank ? "▲" : "▼"} was ${ordinal(other)}`;
}

// ── The parts of the page ────────────────────────────────────────────────────────────────────

/** @param {HTMLElement} view @param {QueryData | FoundData} photo */
function placeView(view, { size_wh: [width, height], view_xyxy: [x0, y0, x1, y1] }) {
  Object.assign(view.style, {
    left: `${(100 * x0) / width}%`,
    top: `${(100 * y0) / height}%`,
    width: `${(100 * (x1 - x0)) / width}%`,
    height: `${(100 * (y1 - y0)) / height}%`,
  });
}

/** The query and what of it was asked for. @param {HTMLElement} figure @param {QueryData} query */
function fillQuery(figure, query) {
  const [width, height] = query.size_wh;
  figure.style.setProperty("--wa-aspect", String(width / height));
  write(find(figure, "figcaption span", HTMLElement), query.name);
  const image = find(figure, "img", HTMLImageElement);
  image.src = query.src;
  image.alt = `The query, ${query.name}`;
  placeView(find(figure, ".wa-view", HTMLElement), query);
  drawAsked(find(figure, ".wr-marks", SVGElement), query);
}

/** What was asked for, over the query. @param {SVGElement} marks @param {QueryData} query */
function drawAsked(marks, query) {
  const [width, height] = query.size_wh;
  marks.setAttribute("viewBox", `0 0 ${width} ${height}`);
  marks.replaceChildren();
  if (query.shade)
    marks.append(svg("image", { href: query.shade, width, height, preserveAspectRatio: "none" }));
  const only = query.boxes.length === 1 && !query.points.length && !query.masks;
  for (const [x0, y0, x1, y1] of only ? query.boxes : []) {
    const outside = `M0 0H${width}V${height}H0ZM${x0} ${y0}H${x1}V${y1}H${x0}Z`;
    marks.append(svg("path", { d: outside, class: "wr-outside", "fill-rule": "evenodd" }));
  }
  for (const [boxes, kind] of /** @type {[XYXY[], string][]} */ ([
    [query.boxes, "wa-mark wa-pinned"],
    [query.without, "wr-without"],
  ])) {
    for (const [x, y, x1, y1] of boxes) {
      const box = { x, y, width: x1 - x, height: y1 - y };
      marks.append(
        svg("rect", { ...box, class: "wa-casing" }),
        svg("rect", { ...box, class: kind }),
      );
    }
  }
  for (const [cx, cy] of query.points) {
    const ring = { cx, cy, r: Math.max(width, height) / 32 };
    marks.append(
      svg("circle", { ...ring, class: "wa-casing" }),
      svg("circle", { ...ring, class: "wa-mark wa-pinned" }),
    );
  }
}

/** A map over a photograph. @param {HTMLElement} frame @param {FoundData} photo @param {number} full @param {Uint32Array} colours */
function overlayMap(frame, photo, full, colours) {
  if (!photo.map) return;
  const view = document.createElement("span");
  view.className = "wa-view";
  placeView(view, photo);
  const canvas = document.createElement("canvas");
  canvas.className = "wr-map";
  view.append(canvas);
  frame.append(view);
  makePainter(canvas, ...photo.map.grid_hw)(decodeFloats(photo.map.values), full, colours);
}

/** The picture becomes a button. @param {Element} picture @param {string} label */
function makeOpener(picture, label) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "wr-picture wr-open";
  button.setAttribute("aria-label", label);
  button.append(...picture.childNodes);
  picture.replaceWith(button);
}

/** The picture of a hit, and what does not depend on the search. @param {HTMLElement} item @param {FoundData} photo */
function fillPhoto(item, photo) {
  const [width, height] = photo.size_wh;
  const frame = find(item, ".wr-frame", HTMLElement);
  frame.style.setProperty("--wa-aspect", String(width / height));
  find(frame, "img", HTMLImageElement).src = photo.src;
  const name = find(item, ".wr-name", HTMLElement);
  name.textContent = photo.name;
  name.title = photo.path;
  find(item, ".wr-fields", HTMLElement).append(
    ...photo.fields.map(([key, value]) => {
      const row = document.createElement("div");
      row.append(inline("dt", "", key), inline("dd", "", value));
      return row;
    }),
  );
}

/** Rank and scores of a hit; says all of it in words. @param {HTMLElement} item @param {HitData} hit @param {Ranking} ranking @param {Searched} data @param {number} most the score of a full bar */
function fillNumbers(item, hit, ranking, data, most) {
  const photo = data.photos[hit.photo];
  item.dataset.photo = String(hit.photo);
  write(find(item, ".wr-rank", HTMLElement), String(hit.rank));
  const bare = data.whole || ranking === "by_whole";
  const score = signed(hit.score).replace("+", "");
  const share = sayShare(hit, bare);
  const moved = sayMoved(hit, ranking, data);
  write(find(item, ".wr-score b", HTMLElement), score);
  write(find(item, ".wr-score span", HTMLElement), share);
  const line = find(item, ".wr-moved", HTMLElement);
  write(
    line,
    photo.missing ? `${moved}${moved && "; "}the photograph is gone or has changed` : moved,
  );
  line.classList.toggle("wr-up", ranking === "hits" && hit.other !== null && hit.other > hit.rank);
  find(item, ".wr-all", HTMLElement).style.width = `${(100 * Math.max(0, hit.similarity)) / most}%`;
  const part = find(item, ".wr-part", HTMLElement);
  part.style.width = `${(100 * Math.abs(hit.score)) / most}%`;
  part.classList.toggle("wr-below", hit.score < 0);
  part.classList.toggle("wr-bare", bare);
  return `Rank ${hit.rank}: ${photo.name}, ${score} ${share}${moved && `, ${moved}`}.`;
}

/** The score of a full bar. @param {Searched} data */
function fullBar(data) {
  const scores = [...data.hits, ...data.by_whole].flatMap((hit) => [hit.score, hit.similarity]);
  return largest(Float32Array.from(scores)) || 1;
}

/** Lines between the same photographs of both rankings. @param {Element} rankings @param {SVGElement} ties */
function drawTies(rankings, ties) {
  const origin = rankings.getBoundingClientRect();
  /** @param {Ranking} ranking */
  const hits = (ranking) =>
    /** @type {HTMLElement[]} */ ([
      ...rankings.querySelectorAll(`[data-ranking=${ranking}] .wr-hit`),
    ]);
  const others = new Map(hits("by_whole").map((item) => [item.dataset.photo, item]));
  ties.replaceChildren(
    ...hits("hits").flatMap((left) => {
      const right = others.get(left.dataset.photo);
      if (!right) return [];
      const [a, b] = [left, right].map((item) => item.getBoundingClientRect());
      const [x0, x1] = [a.right - origin.x + 6, b.x - origin.x - 6];
      const [y0, y1] = [a, b].map((box) => box.y + box.height / 2 - origin.y);
      const middle = (x0 + x1) / 2;
      const d = `M${x0} ${y0}C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`;
      return [svg("path", { d, "data-photo": left.dataset.photo ?? "" })];
    }),
  );
}

/** Highlights one photograph wherever it is. @param {Element} rankings @param {string | undefined} photo */
function tie(rankings, photo) {
  for (const part of rankings.querySelectorAll("[data-photo]")) {
    const tied = photo !== undefined && part.getAttribute("data-photo") === photo;
    part.classList.toggle("wr-tied", tied);
  }
}

/** The pair with the photographs of the page. @param {ResultsData} data @param {FoundData} photo @returns {ViewerData} */
function pairOf({ query }, photo) {
  const pair = /** @type {ViewerData} */ (photo.pair);
  return {
    ...pair,
    query: { ...pair.query, src: query.src },
    reference: { ...pair.reference, src: photo.src },
  };
}

/** What the pair's page begins with: the one box or point that was searched for. @param {QueryData} query */
function stateOf({ boxes, points, masks, without, without_masks }) {
  const parts = boxes.length + points.length + masks + without.length + without_masks;
  if (parts !== 1 || !(boxes.length || points.length))
    return { view: /** @type {const} */ ("overall") };
  const side = /** @type {const} */ ("query");
  const mark = boxes.length ? { side, xyxy: boxes[0] } : { side, xy: points[0] };
  return { view: /** @type {const} */ ("point"), mark, pinned: true };
}

/** The fixed words of the page. @param {HTMLElement} root @param {ResultsData} data */
function fillWords(root, data) {
  const { hits, images, where, maps, whole } = data;
  /** @param {string} selector @param {string} text */
  const say = (selector, text) => write(find(root, selector, HTMLElement), text);
  say("h1", whole ? "Photographs like this one" : "Photographs that share what is marked");
  const among = where === null ? "" : `, among those where ${where}`;
  const best = `The best ${hits.length.toLocaleString("en")} of ${counted(images, "photograph", "photographs")}${among}.`;
  const left = data.by_whole.length ? "Left: by" : "By";
  const right = data.by_whole.length
    ? " Right: by the whole similarity. The same photograph is joined by a line, or lit on both sides."
    : "";
  const both = whole
    ? ""
    : ` ${left} what the marked region carries, and its share of the similarity.${right}`;
  const pairs = hits.filter(({ photo }) => data.photos[photo].pair).length;
  const first = pairs < hits.length ? ` (the first ${pairs} can be)` : "";
  const open = maps === "none" ? "" : ` Open one to see why${first}.`;
  say(".wr-lead", best + both + open);
  say(".wr-asked", sayAsked(data.query));
  say("[data-ranking=hits] h2", whole ? "By similarity" : "With the region");
  say("[data-ranking=by_whole] h2", "Whole photograph");
  const warnings = [
    maps === "none"
      ? "This gallery keeps no maps (--maps none), so there are no heat maps here and no pairs to open: index it with --maps full for those."
      : "",
    maps === "pq" ? "Where scores lie is approximate (--maps pq); the scores are exact." : "",
    data.approximate ? `The search was ${data.approximate}.` : "",
  ].filter(Boolean);
  say(".wr-warning", warnings.join(" "));
  find(root, ".wr-warning", HTMLElement).hidden = !warnings.length;
  find(root, ".wr-keys", HTMLElement).hidden = maps === "none";
  say(
    ".wr-note",
    maps === "none"
      ? ""
      : `Each cell shows what it carries of the score, in units of cosine: warm for the match, blue against it. All maps share one scale.`,
  );
  say(
    ".wa-footer p",
    data.model +
      (maps === "none"
        ? ""
        : " · Pairs are here at reduced size; whyalike search --explain RANK FILE writes one in full."),
  );
}

// ── The page ─────────────────────────────────────────────────────────────────────────────────

/**
 * Builds the page inside an element.
 * @param {HTMLElement} element @param {ResultsData} data
 * @param {(opened: Opened | null, viewer: ReturnType<typeof mount> | null) => void} changed is told
 *   which pair is open, and its viewer
 */
export function mountResults(element, data, changed = () => {}) {
  if (data.format !== 1) {
    throw new Error(
      `this page reads data of format 1; came ${data.format}; take the version that wrote it`,
    );
  }
  element.innerHTML = RESULTS;
  const root = find(element, ".wr-root", HTMLElement);
  const pair = find(element, ".wr-pair", HTMLElement);
  const rankings = find(root, ".wr-rankings", HTMLElement);
  const ties = find(root, ".wr-ties", SVGElement);
  const heat = find(root, ".wr-heat input", HTMLInputElement);
  fillWords(root, data);
  fillQuery(find(root, ".wr-query", HTMLElement), data.query);

  const maps = data.photos.flatMap(({ map }) => (map ? [decodeFloats(map.values)] : []));
  const full = roundUp(Math.max(0, ...maps.map(largest))) || 1;
  const colours = makeColours("both", 0.8);
  const most = fullBar(data);
  /** @type {Record<Ranking, HTMLElement[]>} */
  const items = { hits: [], by_whole: [] };
  for (const ranking of /** @type {Ranking[]} */ (["hits", "by_whole"])) {
    const list = find(root, `[data-ranking=${ranking}] ol`, HTMLElement);
    data[ranking].forEach((hit, index) => {
      list.insertAdjacentHTML("beforeend", HIT);
      const item = /** @type {HTMLElement} */ (list.lastElementChild);
      item.dataset.index = String(index);
      const photo = data.photos[hit.photo];
      fillPhoto(item, photo);
      const rank = fillNumbers(item, hit, ranking, data, most);
      if (photo.pair) makeOpener(find(item, ".wr-picture", HTMLElement), `${rank} Open the pair.`);
      else find(item, "img", HTMLImageElement).alt = rank;
      overlayMap(find(item, ".wr-frame", HTMLElement), data.photos[hit.photo], full, colours);
      items[ranking].push(item);
    });
  }
  find(root, "[data-ranking=by_whole]", HTMLElement).hidden = !data.by_whole.length;
  rankings.classList.toggle("wr-single", !data.by_whole.length);
  const rows = Math.max(data.hits.length, data.by_whole.length) + 1; // and the headings'
  rankings.style.setProperty("--wr-rows", String(rows));
  fillScale(find(root, ".wr-heat", HTMLElement), maps.length > 0, full, colours);

  /** @type {Opened | null} */
  let opened = null;
  /** @type {ReturnType<typeof mount> | null} */
  let viewer = null;
  let scrolled = 0;

  /** @param {boolean} on */
  function showHeat(on) {
    heat.checked = on;
    root.classList.toggle("wr-plain", !on);
    for (const frame of rankings.querySelectorAll(".wr-frame:has(.wr-map)")) {
      frame.classList.toggle("wa-under-map", on);
    }
  }

  /** Opens a pair, or none for the list. @param {Opened | null} next */
  function show(next) {
    if (next && !data.photos[data[next.ranking][next.index]?.photo]?.pair) next = null;
    if (next?.ranking === opened?.ranking && next?.index === opened?.index) return;
    if (!opened) scrolled = window.scrollY;
    const before = opened;
    opened = next;
    viewer?.destroy();
    viewer = null;
    root.hidden = next !== null;
    pair.hidden = next === null;
    if (next) {
      const hit = data[next.ranking][next.index];
      const of = data.whole
        ? ""
        : next.ranking === "hits"
          ? " with the region"
          : " by the whole photograph";
      write(
        find(pair, ".wr-where", HTMLElement),
        `${next.index + 1} of ${data[next.ranking].length}${of}`,
      );
      viewer = mount(find(pair, ".wr-viewer", HTMLElement), pairOf(data, data.photos[hit.photo]), {
        state: stateOf(data.query),
        headingLevel: 1,
      });
      if (!pair.contains(document.activeElement)) find(pair, ".wr-back", HTMLElement).focus();
      window.scrollTo(0, 0);
    } else if (before) {
      window.scrollTo(0, scrolled);
      const item = items[before.ranking][before.index];
      find(item, ".wr-open", HTMLElement).focus({ preventScroll: true });
      item.scrollIntoView({ block: "nearest" });
    }
    changed(opened, viewer);
  }

  /** @param {number} by */
  function step(by) {
    if (!opened) return;
    const { ranking } = opened;
    const there = data[ranking].flatMap(({ photo }, i) => (data.photos[photo].pair ? [i] : []));
    const at = there.indexOf(opened.index) + by + there.length;
    show({ ranking, index: there[at % there.length] });
  }

  /** Where an arrow key leads from a hit. @param {string} key @param {Ranking} ranking @param {number} index */
  function neighbour(key, ranking, index) {
    if (key === "ArrowDown") return items[ranking][index + 1];
    if (key === "ArrowUp") return items[ranking][index - 1];
    if (key !== "ArrowLeft" && key !== "ArrowRight") return undefined;
    const forward = key === "ArrowRight";
    if (!data.by_whole.length) return items[ranking][index + (forward ? 1 : -1)];
    if (forward !== (ranking === "hits")) return undefined;
    const others = items[forward ? "by_whole" : "hits"];
    const photo = items[ranking][index].dataset.photo;
    return (
      others.find((item) => item.dataset.photo === photo) ??
      others[Math.min(index, others.length - 1)]
    );
  }

  /** @param {Event} event @returns {(Opened & { item: HTMLElement }) | null} */
  function hitOf(event) {
    const item = event.target instanceof Element ? event.target.closest(".wr-hit") : null;
    const list = item?.closest(".wr-ranking");
    if (!(item instanceof HTMLElement) || !(list instanceof HTMLElement)) return null;
    return {
      item,
      ranking: /** @type {Ranking} */ (list.dataset.ranking),
      index: Number(item.dataset.index),
    };
  }

  root.addEventListener("click", (event) => {
    const hit = hitOf(event);
    // Words stay words: who selects them does not want to go.
    if (hit && !String(document.getSelection())) show({ ranking: hit.ranking, index: hit.index });
  });
  root.addEventListener("pointerover", (event) => tie(rankings, hitOf(event)?.item.dataset.photo));
  root.addEventListener("pointerleave", () => tie(rankings, undefined));
  root.addEventListener("focusin", (event) => tie(rankings, hitOf(event)?.item.dataset.photo));
  heat.addEventListener("input", () => showHeat(heat.checked));
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const hit = hitOf(event);
    const next = hit && neighbour(event.key, hit.ranking, hit.index)?.querySelector(".wr-open");
    if (next instanceof HTMLElement) next.focus();
    else if (event.key.toLowerCase() === "h" && maps.length) showHeat(!heat.checked);
    else return;
    event.preventDefault();
  });
  pair.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const nav = event.target instanceof Element && event.target.closest(".wr-nav");
    if (event.key === "Escape") show(null);
    else if (nav && event.key === "ArrowLeft") step(-1);
    else if (nav && event.key === "ArrowRight") step(1);
    else return;
    event.preventDefault();
  });
  const [previous, following] = pair.querySelectorAll(".wr-steps button");
  find(pair, ".wr-back", HTMLElement).addEventListener("click", () => show(null));
  previous.addEventListener("click", () => step(-1));
  following.addEventListener("click", () => step(1));
  const resizes = new ResizeObserver(() => drawTies(rankings, ties));
  resizes.observe(rankings);
  showHeat(maps.length > 0);
  return {
    show,
    /** Takes the page's parts out of the element. */
    destroy() {
      resizes.disconnect();
      viewer?.destroy();
      element.replaceChildren();
    },
  };
}

/** What the colours of all maps mean. @param {HTMLElement} part @param {boolean} any @param {number} full @param {Uint32Array} colours */
function fillScale(part, any, full, colours) {
  part.hidden = !any;
  const scale = find(part, ".wa-scale", HTMLElement);
  const [low, high] = scale.querySelectorAll("span");
  write(low, signed(-full));
  write(high, signed(full));
  const bar = find(scale, "canvas", HTMLCanvasElement);
  bar.width = 2 * LEVELS + 1;
  const image = new ImageData(new Uint8ClampedArray(colours.slice().buffer), bar.width, 1);
  bar.getContext("2d")?.putImageData(image, 0, 0);
}

/** The page as a file of its own: its address tells which pair is open. @param {HTMLElement} element @param {ResultsData} data */
export function startPage(element, data) {
  const results = mountResults(element, data, (opened) => {
    const hash = opened ? `#${opened.ranking}-${opened.index + 1}` : "#results";
    if ((location.hash || "#results") !== hash) location.hash = hash;
  });
  const follow = () => {
    const [, ranking, rank] = /^#(hits|by_whole)-(\d+)$/.exec(location.hash) ?? [];
    results.show(
      ranking ? { ranking: /** @type {Ranking} */ (ranking), index: Number(rank) - 1 } : null,
    );
  };
  history.scrollRestoration = "manual";
  window.addEventListener("hashchange", follow);
  follow();
}

// For the room of `whyalike serve`, whose rankings answer as a region moves.
export { HIT, counted, drawAsked, drawTies, fillNumbers, fillPhoto, fillQuery, fillScale, fullBar };
export { makeOpener, ordinal, overlayMap, placeView, sayAsked, stateOf, tie };
