// @ts-check
/** Both rankings of a search, which answer as a region moves: what stays is moved, not made anew. */

import { decodeFloats, find, largest, makeColours, roundUp, write } from "./viewer.js";
import {
  HIT,
  counted,
  drawTies,
  fillNumbers,
  fillPhoto,
  fillScale,
  fullBar,
  makeOpener,
  overlayMap,
  tie,
} from "./results.js";

/** @typedef {import("./results.js").FoundData} FoundData */
/** @typedef {import("./results.js").HitData} HitData */
/** @typedef {import("./results.js").Ranking} Ranking */
/** @typedef {Omit<FoundData, "src" | "map" | "pair"> & { id: string }} Listed a photograph as the server lists it */
/** @typedef {{ images: number, where: string | null, whole: boolean, photos: (FoundData & { id: string })[], hits: HitData[], by_whole: HitData[] }} Answer */
/** @typedef {Record<string, { grid_hw: [number, number], values: string }>} Maps */

/** @type {Ranking[]} */
const RANKINGS = ["hits", "by_whole"];

const MARKUP = `
  <section class="wr-ranking" data-ranking="hits"><h2></h2><ol></ol></section>
  <section class="wr-ranking" data-ranking="by_whole"><h2>Whole photograph</h2><ol></ol></section>
  <svg class="wr-ties" aria-hidden="true"></svg>`;

/** Where a photograph's picture is. @param {Listed} photo @param {number} size @returns {FoundData & { id: string }} */
export const withPicture = (photo, size) => ({
  ...photo,
  src: photo.missing ? "" : `/api/photos/${photo.id}/picture?size=${size}`,
  map: null,
  pair: null,
});

/**
 * @param {HTMLElement} element @param {HTMLElement} scale the legend of the maps
 * @param {{ open: (ranking: Ranking, id: string) => void, compare: (id: string) => void }} to
 */
export function mountRankings(element, scale, to) {
  element.classList.add("wr-rankings");
  element.innerHTML = MARKUP;
  const ties = find(element, ".wr-ties", SVGElement);
  const colours = makeColours("both", 0.8);
  /** @type {Record<Ranking, Map<string, HTMLElement>>} */
  const items = { hits: new Map(), by_whole: new Map() };
  /** @type {Answer | null} */
  let answer = null;
  /** @type {Maps | null} */
  let maps = null;
  let heat = true;

  /** @param {Ranking} ranking @param {FoundData & { id: string }} photo */
  function itemOf(ranking, photo) {
    const old = items[ranking].get(photo.id);
    if (old) return old;
    const holder = document.createElement("ol");
    holder.innerHTML = HIT;
    const item = /** @type {HTMLElement} */ (holder.firstElementChild);
    item.dataset.id = photo.id;
    fillPhoto(item, photo);
    if (!photo.src) find(item, "img", HTMLImageElement).removeAttribute("src");
    find(item, "img", HTMLImageElement).addEventListener("error", () => {
      item.classList.add("ws-missing");
    });
    item.classList.toggle("ws-missing", photo.missing);
    makeOpener(find(item, ".wr-picture", HTMLElement), "");
    const compare = document.createElement("button");
    compare.type = "button";
    compare.className = "ws-compare";
    compare.textContent = "Compare";
    find(item, ".wr-words", HTMLElement).append(compare);
    items[ranking].set(photo.id, item);
    return item;
  }

  /** @param {Ranking} ranking @param {Answer} next @param {number} most @param {string | null} query */
  function fill(ranking, next, most, query) {
    const list = find(element, `[data-ranking=${ranking}] ol`, HTMLElement);
    const kept = new Set();
    const ordered = next[ranking].map((hit) => {
      const photo = next.photos[hit.photo];
      const item = itemOf(ranking, photo);
      const said = fillNumbers(item, hit, ranking, next, most);
      if (photo.id === query) write(find(item, ".wr-moved", HTMLElement), "the query itself");
      find(item, ".wr-open", HTMLElement).setAttribute("aria-label", `${said} Open the pair.`);
      find(item, ".ws-compare", HTMLElement).setAttribute("aria-label", `Compare ${photo.name}`);
      item.dataset.photo = photo.id;
      kept.add(photo.id);
      return item;
    });
    const focused = document.activeElement;
    // Only what is out of place is moved, so that pictures and the focus stay.
    ordered.forEach((item, index) => {
      if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
    });
    while (list.children.length > ordered.length) list.lastElementChild?.remove();
    for (const id of items[ranking].keys()) {
      if (!kept.has(id) && items[ranking].size > 200) items[ranking].delete(id);
    }
    if (
      focused instanceof HTMLElement &&
      focused !== document.activeElement &&
      list.contains(focused)
    )
      focused.focus({ preventScroll: true });
  }

  function drawMaps() {
    for (const view of element.querySelectorAll(".wr-frame .wa-view")) view.remove();
    for (const frame of element.querySelectorAll(".wa-under-map"))
      frame.classList.remove("wa-under-map");
    const all = maps ? Object.values(maps).map(({ values }) => decodeFloats(values)) : [];
    const full = roundUp(Math.max(0, ...all.map(largest))) || 1;
    fillScale(scale, all.length > 0, full, colours);
    if (!heat || !maps || !answer) return;
    const by = new Map(answer.photos.map((photo) => [photo.id, photo]));
    for (const item of element.querySelectorAll(".wr-hit")) {
      const id = /** @type {HTMLElement} */ (item).dataset.id ?? "";
      const photo = by.get(id);
      if (!photo || !maps[id]) continue;
      const frame = find(item, ".wr-frame", HTMLElement);
      overlayMap(frame, { ...photo, map: maps[id] }, full, colours);
      frame.classList.add("wa-under-map");
    }
  }

  /** @param {Event} event */
  const hitOf = (event) => {
    const item = event.target instanceof Element ? event.target.closest(".wr-hit") : null;
    const list = item?.closest(".wr-ranking");
    if (!(item instanceof HTMLElement) || !(list instanceof HTMLElement)) return null;
    return {
      item,
      ranking: /** @type {Ranking} */ (list.dataset.ranking),
      id: item.dataset.id ?? "",
    };
  };

  element.addEventListener("click", (event) => {
    const hit = hitOf(event);
    if (!hit || String(document.getSelection())) return;
    const target = /** @type {Element} */ (event.target);
    if (target.closest(".ws-compare")) to.compare(hit.id);
    else to.open(hit.ranking, hit.id);
  });
  element.addEventListener("pointerover", (event) => tie(element, hitOf(event)?.id));
  element.addEventListener("pointerleave", () => tie(element, undefined));
  element.addEventListener("focusin", (event) => tie(element, hitOf(event)?.id));
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const hit = hitOf(event);
    if (!hit) return;
    if (event.key === "c") to.compare(hit.id);
    else {
      const next = neighbour(event.key, hit.item, hit.ranking)?.querySelector(".wr-open");
      if (!(next instanceof HTMLElement)) return;
      next.focus();
    }
    event.preventDefault();
  });

  /** Where an arrow key leads from a hit. @param {string} key @param {HTMLElement} item @param {Ranking} ranking */
  function neighbour(key, item, ranking) {
    if (key === "ArrowDown") return item.nextElementSibling;
    if (key === "ArrowUp") return item.previousElementSibling;
    if (key !== "ArrowLeft" && key !== "ArrowRight") return null;
    if (!answer?.by_whole.length)
      return key === "ArrowRight" ? item.nextElementSibling : item.previousElementSibling;
    if ((key === "ArrowRight") !== (ranking === "hits")) return null;
    const other = ranking === "hits" ? "by_whole" : "hits";
    const list = find(element, `[data-ranking=${other}] ol`, HTMLElement);
    const same = [...list.children].find(
      (one) => one instanceof HTMLElement && one.dataset.id === item.dataset.id,
    );
    const at = [...(item.parentElement?.children ?? [])].indexOf(item);
    return same ?? list.children[Math.min(at, list.children.length - 1)];
  }

  new ResizeObserver(() => drawTies(element, ties)).observe(element);

  return {
    /** Shows what a search found; its maps come later. @param {Answer} next @param {string | null} query a photograph of the gallery */
    show(next, query) {
      answer = next;
      maps = null;
      const most = fullBar(next);
      for (const ranking of RANKINGS) fill(ranking, next, most, query);
      write(
        find(element, "[data-ranking=hits] h2", HTMLElement),
        next.whole ? "By similarity" : "With the region",
      );
      find(element, "[data-ranking=by_whole]", HTMLElement).hidden = !next.by_whole.length;
      element.classList.toggle("wr-single", !next.by_whole.length);
      const rows = Math.max(next.hits.length, next.by_whole.length) + 1;
      element.style.setProperty("--wr-rows", String(rows));
      drawMaps();
      drawTies(element, ties);
    },
    /** What each cell carries. @param {Maps | null} next */
    showMaps(next) {
      maps = next;
      drawMaps();
    },
    /** @param {boolean} on */
    showHeat(on) {
      heat = on;
      drawMaps();
    },
    /** Marks the hit that another one is to be compared with. @param {string | null} id */
    showCompared(id) {
      element.classList.toggle("ws-comparing", id !== null);
      for (const item of element.querySelectorAll(".wr-hit")) {
        const on = /** @type {HTMLElement} */ (item).dataset.id === id;
        item.classList.toggle("ws-compared", on);
        const button = item.querySelector(".ws-compare");
        button?.setAttribute("aria-pressed", String(on));
        if (button) write(button, on ? "Comparing" : id === null ? "Compare" : "Compare with this");
      }
    },
    /** @param {string} id */
    focus(id) {
      const item = items.hits.get(id) ?? items.by_whole.get(id);
      item?.querySelector("button")?.focus({ preventScroll: true });
      item?.scrollIntoView({ block: "nearest" });
    },
  };
}

/** @param {Answer} answer */
export function sayFound({ hits, images, where, whole, by_whole }) {
  if (!hits.length)
    return where === null ? "The gallery is empty." : `No photograph where ${where}.`;
  const best = `The best ${hits.length.toLocaleString("en")} of ${counted(images, "photograph", "photographs")}${where === null ? "" : `, among those where ${where}`}.`;
  if (whole) return `${best} Mark a part of the query to search for that.`;
  return `${best} ${by_whole.length ? "Left: by" : "By"} what the marked region carries, and its share of the similarity. Right: by the whole photograph.`;
}
