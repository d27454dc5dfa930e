// @ts-check
/**
 * The room to look around in: choose a photograph, mark a part of it, and see which others share it.
 * The address is the state; `show` draws it.
 */

import { find, mount, write } from "./viewer.js";
import { sayAsked, stateOf } from "./results.js";
import { Lost, Refused, ask, download, latest, save, wait } from "./api.js";
import { PAGE, mountBrowse } from "./browse.js";
import { mountContrast } from "./contrast.js";
import { NOTHING, isNothing, mountMark } from "./mark.js";
import { mountRankings, sayFound, withPicture } from "./ranking.js";
import { addressOf, viewOf } from "./state.js";

/** @typedef {import("./state.js").View} View */
/** @typedef {import("./mark.js").Shown} Shown */
/** @typedef {import("./mark.js").Parts} Parts */
/** @typedef {import("./ranking.js").Answer} Answer */
/** @typedef {{ images: number, network: string, maps: "none" | "full" | "pq", columns: Record<string, string>, version: number, model: "loading" | "ready" | "failed", problem: string | null }} About */

/** The pointer has come to rest, in milliseconds: then maps are asked for. */
const RESTS = 160;
/** How often a server that was lost is asked whether it is back, and one whether its model is ready. */
const AGAIN = 1500;
const HITS = 20;

const MARKUP = `
  <div class="wa-root ws-top">
    <header class="ws-header">
      <div class="ws-brand">
        <a class="ws-home" href="#">whyalike</a>
        <p class="ws-about"></p>
      </div>
      <form class="ws-filter" role="search">
        <label><span>Where</span>
          <input type="text" name="where" maxlength="1000" spellcheck="false" autocomplete="off"
            autocapitalize="off" placeholder="label = 'bag'">
        </label>
        <button type="submit">Filter</button>
      </form>
      <label class="ws-choose"><input type="file" accept="image/*"><span>Your photograph…</span></label>
    </header>
    <p class="ws-alert" role="alert" hidden></p>
  </div>
  <section class="wa-root ws-browse" hidden>
    <header class="wr-header">
      <h1>Choose a photograph to search by</h1>
      <p class="wa-lead">Then mark what of it the others are to share. A photograph of your own can be dropped anywhere on this page; it stays in memory.</p>
    </header>
    <div class="ws-pages"></div>
  </section>
  <section class="wa-root wr-root ws-look" hidden>
    <nav class="wr-nav ws-nav" aria-label="Search">
      <button type="button" class="ws-gallery">← Gallery</button>
      <span class="ws-actions">
        <button type="button" data-do="link">Copy link</button>
        <button type="button" data-do="page">Save page</button>
        <button type="button" data-do="json" aria-label="Save JSON">JSON</button>
      </span>
    </nav>
    <header class="wr-header">
      <h1></h1>
      <p class="wa-lead wr-lead" aria-live="polite"></p>
      <p class="wr-warning" hidden></p>
    </header>
    <div class="wr-main">
      <div class="wr-aside">
        <div class="ws-mark"></div>
        <p class="wr-asked"></p>
        <div class="wr-heat">
          <label class="wa-toggle" title="Heat maps (H)"><input type="checkbox" checked><span>Heat maps</span></label>
          <span class="wa-scale"><span></span><canvas height="1" aria-hidden="true"></canvas><span></span><span>per cell</span></span>
        </div>
        <details class="ws-keys"><summary>Keys</summary><dl></dl></details>
      </div>
      <div class="ws-found">
        <p class="ws-compared-with" role="status" hidden><span></span> <button type="button">Cancel</button></p>
        <div class="ws-rankings"></div>
      </div>
    </div>
  </section>
  <section class="wr-pair ws-open" tabindex="-1" aria-label="A hit and the query" hidden>
    <nav class="wa-root wr-nav ws-nav" aria-label="Hits">
      <button type="button" class="wr-back">← All results</button>
      <span class="wr-steps">
        <button type="button" aria-label="Previous hit">‹</button>
        <button type="button" aria-label="Next hit">›</button>
      </span>
      <span class="wr-where"></span>
      <span class="ws-actions">
        <button type="button" data-do="compare">Compare with another</button>
        <button type="button" data-do="link">Copy link</button>
        <button type="button" data-do="pair">Save page</button>
      </span>
    </nav>
    <div class="wr-viewer"></div>
  </section>
  <div class="ws-drop" aria-hidden="true" hidden><p>Drop it to search by it</p></div>`;

/** @type {[string, string][]} */
const KEYS = [
  ["Arrows", "move a point on the query, or between hits"],
  ["Shift + arrows", "draw a box on the query"],
  ["Delete", "clear what is marked"],
  ["B  P", "box and point, brush"],
  ["Enter", "open a hit"],
  ["C", "compare a hit with another"],
  ["H", "heat maps"],
  ["/", "filter"],
  ["Esc", "back"],
];

/** @param {HTMLElement} element */
function startRoom(element) {
  element.innerHTML = MARKUP;
  const alert = find(element, ".ws-alert", HTMLElement);
  const browse = find(element, ".ws-browse", HTMLElement);
  const look = find(element, ".ws-look", HTMLElement);
  const opened = find(element, ".ws-open", HTMLElement);
  const filter = find(element, ".ws-filter input", HTMLInputElement);
  const file = find(element, ".ws-choose input", HTMLInputElement);
  const heat = find(look, ".wr-heat input", HTMLInputElement);
  const comparedWith = find(look, ".ws-compared-with", HTMLElement);
  fillKeys(find(look, ".ws-keys dl", HTMLElement));

  /** @type {About | null} */
  let about = null;
  let view = viewOf(location.hash);
  /** The query of the view, as the server shows it. @type {Shown | null} */
  let query = null;
  /** What the last search found, and what for. @type {Answer | null} */
  let answer = null;
  /** The page that is shown of the gallery. @type {string | null} */
  let paged = null;
  /** @type {ReturnType<typeof mount> | null} */
  let viewer = null;
  /** The hit that another one is to be compared with. @type {string | null} */
  let compared = null;
  /** The ranking that a hit was opened from. @type {import("./results.js").Ranking} */
  let from = "hits";
  let resting = 0;
  let scrolled = 0;
  /** Of the views that were asked for, the last: answers to others are late. */
  let turn = 0;

  const pages = mountBrowse(find(browse, ".ws-pages", HTMLElement), {
    choose: (photo) => go({ source: { photo }, parts: NOTHING, pair: null, contrast: null }),
    turn: (offset) => go({ offset }),
  });
  const mark = mountMark(find(look, ".ws-mark", HTMLElement), (parts, done) => {
    go({ parts }, { replace: !done, quiet: !done });
  });
  const rankings = mountRankings(
    find(look, ".ws-rankings", HTMLElement),
    find(look, ".wr-heat", HTMLElement),
    {
      open(ranking, id) {
        if (compared && compared !== id) return contrastWith(id);
        if (about?.maps === "none") return;
        from = ranking;
        go({ pair: id });
      },
      compare: (id) =>
        compared && compared !== id ? contrastWith(id) : chooseCompared(compared ? null : id),
    },
  );

  // ── What goes wrong ────────────────────────────────────────────────────────────────────────

  /** @param {string} text */
  function complain(text) {
    alert.hidden = !text;
    write(alert, text);
  }

  /** @param {unknown} error */
  function failed(error) {
    if (error instanceof Lost) {
      complain(`${error.message} Trying again…`);
      setTimeout(reconnect, AGAIN);
    } else if (error instanceof Refused) complain(sentence(error.message));
    else throw error;
  }

  async function reconnect() {
    try {
      await learn();
      complain("");
      paged = query = null;
      await show();
    } catch (error) {
      failed(error);
    }
  }

  async function learn() {
    about = /** @type {About} */ (await ask("gallery"));
    const count = about.images.toLocaleString("en");
    const model = { loading: " · the network is loading…", ready: "", failed: " · no network" }[
      about.model
    ];
    write(find(element, ".ws-about", HTMLElement), `${count} photographs${model}`);
    const problem =
      about.problem && `Photographs of your own cannot be searched by: ${about.problem}`;
    find(element, ".ws-about", HTMLElement).title = problem ?? about.network;
    filter.title = `Columns: ${Object.entries(about.columns)
      .map(([name, kind]) => `${name} (${kind})`)
      .join(", ")}`;
    const warning = find(look, ".wr-warning", HTMLElement);
    warning.hidden = about.maps === "full";
    write(
      warning,
      about.maps === "none"
        ? "This gallery keeps no maps (--maps none), so there are no heat maps here and no pairs to open: index it with --maps full for those."
        : "Where scores lie is approximate (--maps pq); the scores are exact.",
    );
    if (about.model === "loading") setTimeout(() => learn().catch(failed), AGAIN);
  }

  // ── The address is the state ───────────────────────────────────────────────────────────────

  /** @param {Partial<View>} change @param {{ replace?: boolean, quiet?: boolean }} how `quiet`: a mark is being drawn */
  function go(change, { replace = false, quiet = false } = {}) {
    view = { ...view, ...change };
    if (quiet) return void showMarks();
    const address = addressOf(view);
    if (replace || address === location.hash) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    show().catch(failed);
  }

  async function show() {
    const mine = ++turn;
    filter.value = view.where;
    const source = view.source;
    if (!source) return showPage(mine);
    const same = query && JSON.stringify(query.query) === JSON.stringify(source);
    if (!same) {
      query = answer = null;
      const found = await ask("query", { query: source });
      if (mine !== turn) return;
      query = /** @type {Shown} */ (found);
      complain("");
    }
    showMarks();
    if (view.contrast) await showContrast(mine, view.contrast);
    else if (view.pair) await showPair(mine, view.pair);
    else reveal(look);
    document.title = `${/** @type {Shown} */ (query).name} · whyalike`;
  }

  /** @param {HTMLElement} section */
  function reveal(section) {
    const before = [browse, look, opened].find((one) => !one.hidden);
    if (before === look) scrolled = window.scrollY;
    for (const one of [browse, look, opened]) one.hidden = one !== section;
    if (section !== opened) {
      viewer?.destroy();
      viewer = null;
      find(opened, ".wr-viewer", HTMLElement).replaceChildren();
    }
    if (before && before !== section) window.scrollTo(0, section === look ? scrolled : 0);
  }

  // ── The gallery ────────────────────────────────────────────────────────────────────────────

  /** @param {number} mine */
  async function showPage(mine) {
    const asked = new URLSearchParams({ offset: String(view.offset), limit: String(PAGE) });
    if (view.where) asked.set("where", view.where);
    document.title = "whyalike";
    query = answer = null;
    chooseCompared(null);
    scrolled = 0;
    if (paged !== String(asked)) {
      const page = await ask(`photos?${asked}`);
      if (mine !== turn) return;
      paged = String(asked);
      complain("");
      pages.show(page, view.where);
    }
    reveal(browse);
  }

  // ── A search ───────────────────────────────────────────────────────────────────────────────

  const asked = () => ({
    query: view.source,
    ...view.parts,
    where: view.where || null,
    k: HITS,
  });

  const search = latest(async () => {
    if (!query || !view.source) return;
    rest(null);
    const of = asked();
    try {
      const found = await ask("search", of);
      if (JSON.stringify(of.query) !== JSON.stringify(view.source)) return;
      answer = {
        ...found,
        photos: found.photos.map((/** @type {any} */ photo) => withPicture(photo, 240)),
      };
      complain("");
      stale(false);
      rankings.show(/** @type {Answer} */ (answer), query.query.photo ?? null);
      rankings.showCompared(compared);
      write(find(look, ".wr-lead", HTMLElement), sayFound(/** @type {Answer} */ (answer)));
      write(
        find(look, "h1", HTMLElement),
        found.whole ? "Photographs like this one" : "Photographs that share what is marked",
      );
      if (about?.maps !== "none") rest(() => searchMaps(of));
    } catch (error) {
      answer = null;
      stale(true);
      failed(error);
    }
  });

  /** What is still shown was found by another search. @param {boolean} is */
  const stale = (is) =>
    void find(look, ".ws-rankings", HTMLElement).classList.toggle("ws-stale", is);

  /** Does something once the pointer has come to rest. @param {(() => Promise<void>) | null} task */
  function rest(task) {
    if (resting) wait(-1);
    clearTimeout(resting);
    resting = 0;
    if (!task) return;
    wait(1);
    resting = setTimeout(() => {
      resting = 0;
      task().finally(() => wait(-1));
    }, RESTS);
  }

  /** @param {ReturnType<typeof asked>} of */
  async function searchMaps(of) {
    if (!answer) return;
    const mine = answer;
    try {
      const photos = mine.photos.map(({ id }) => id);
      const { maps } = await ask("maps", { ...of, photos });
      if (mine === answer) rankings.showMaps(maps);
    } catch (error) {
      failed(error);
    }
  }

  /** What is marked on the query; a search follows it. */
  function showMarks() {
    if (!query) return;
    mark.show(query, view.parts);
    const { boxes, points, masks, without } = view.parts;
    const counts = { masks: masks.length, without_masks: 0, weights: [], shade: null };
    const said = sayAsked({ ...query, boxes, points, without, ...counts });
    write(find(look, ".wr-asked", HTMLElement), said);
    const now = JSON.stringify(asked());
    if (now === searched && answer) return;
    searched = now;
    search(undefined);
  }
  let searched = "";

  // ── A pair, and a contrast ─────────────────────────────────────────────────────────────────

  /** @param {number} mine @param {string} id */
  async function showPair(mine, id) {
    const data = await ask("pair", { ...asked(), photo: id });
    if (mine !== turn) return;
    const shown = /** @type {Shown} */ (query);
    const { boxes, points, masks, without } = view.parts;
    const state = stateOf({
      ...shown,
      boxes,
      points,
      without,
      masks: masks.length,
      without_masks: 0,
      weights: [],
      shade: null,
    });
    reveal(opened);
    viewer?.destroy();
    const place = find(opened, ".wr-viewer", HTMLElement);
    place.replaceChildren();
    viewer = mount(place, data, { state, headingLevel: 1 });
    sayWhere(id);
    find(opened, "[data-do=compare]", HTMLElement).hidden = false;
    find(opened, "[data-do=pair]", HTMLElement).hidden = false;
    if (!opened.contains(document.activeElement)) find(opened, ".wr-back", HTMLElement).focus();
  }

  /** @param {string} id */
  function sayWhere(id) {
    const hits = answer?.[from] ?? [];
    const at = hits.findIndex(({ photo }) => answer?.photos[photo].id === id);
    const by = answer?.whole
      ? ""
      : from === "hits"
        ? " with the region"
        : " by the whole photograph";
    write(find(opened, ".wr-where", HTMLElement), at < 0 ? "" : `${at + 1} of ${hits.length}${by}`);
    find(opened, ".wr-steps", HTMLElement).hidden = at < 0;
  }

  /** @param {number} by */
  function step(by) {
    const hits = answer?.[from] ?? [];
    const at = hits.findIndex(({ photo }) => answer?.photos[photo].id === view.pair);
    if (at < 0 || !answer) return;
    const next = hits[(at + by + hits.length) % hits.length];
    go({ pair: answer.photos[next.photo].id });
  }

  /** @param {string | null} id */
  function chooseCompared(id) {
    compared = id;
    rankings.showCompared(id);
    comparedWith.hidden = id === null;
    const photo = answer?.photos.find((one) => one.id === id);
    const words = `Comparing ${photo?.name ?? "a photograph"}: choose another one.`;
    write(find(comparedWith, "span", HTMLElement), words);
  }

  /** The one that is more alike comes first. @param {string} id */
  function contrastWith(id) {
    if (!compared || about?.maps === "none") return;
    /** @param {string} one */
    const similarity = (one) =>
      [...(answer?.hits ?? []), ...(answer?.by_whole ?? [])].find(
        ({ photo }) => answer?.photos[photo].id === one,
      )?.similarity ?? 0;
    const both = [compared, id].sort((a, b) => similarity(b) - similarity(a));
    chooseCompared(null);
    go({ contrast: [both[0], both[1]], pair: null });
  }

  /** @param {number} mine @param {[string, string]} photos */
  async function showContrast(mine, photos) {
    const data = await ask("contrast", { ...asked(), photos });
    if (mine !== turn) return;
    if (data.difference < 0) {
      go({ contrast: [photos[1], photos[0]] }, { replace: true });
      return;
    }
    data.query = { ...data.query, parts: view.parts };
    data.photos = data.photos.map((/** @type {any} */ photo) => ({
      ...withPicture(photo, 480),
      map: photo.map,
      similarity: photo.similarity,
    }));
    reveal(opened);
    viewer?.destroy();
    viewer = null;
    mountContrast(find(opened, ".wr-viewer", HTMLElement), data);
    write(find(opened, ".wr-where", HTMLElement), "");
    find(opened, ".wr-steps", HTMLElement).hidden = true;
    find(opened, "[data-do=compare]", HTMLElement).hidden = true;
    find(opened, "[data-do=pair]", HTMLElement).hidden = true;
    if (!opened.contains(document.activeElement)) find(opened, ".wr-back", HTMLElement).focus();
  }

  function back() {
    const last = view.pair ?? view.contrast?.[0] ?? null;
    if (last) {
      go({ pair: null, contrast: null });
      setTimeout(() => rankings.focus(last));
    } else if (view.source) go({ source: null, parts: NOTHING });
  }

  // ── A photograph of one's own ──────────────────────────────────────────────────────────────

  /** @param {File} given */
  async function upload(given) {
    complain("");
    const about_ = find(element, ".ws-about", HTMLElement);
    const said = about_.textContent ?? "";
    write(about_, `reading ${given.name}…`);
    try {
      const found = await ask(`uploads?${new URLSearchParams({ name: given.name })}`, given);
      query = /** @type {Shown} */ (found);
      answer = null;
      go({ source: found.query, parts: NOTHING, pair: null, contrast: null });
    } catch (error) {
      failed(error);
    }
    write(about_, said);
  }

  const drop = find(element, ".ws-drop", HTMLElement);
  file.addEventListener("change", () => {
    if (file.files?.[0]) void upload(file.files[0]);
    file.value = "";
  });
  window.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    drop.hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.hidden = true;
  });
  window.addEventListener("drop", (event) => {
    drop.hidden = true;
    const given = event.dataTransfer?.files[0];
    if (!given) return;
    event.preventDefault();
    void upload(given);
  });
  window.addEventListener("paste", (event) => {
    const given = event.clipboardData?.files[0];
    if (given) void upload(given);
  });

  // ── Buttons and keys ───────────────────────────────────────────────────────────────────────

  for (const way of [
    find(element, ".ws-home", HTMLElement),
    find(look, ".ws-gallery", HTMLElement),
  ]) {
    way.addEventListener("click", (event) => {
      event.preventDefault();
      go({ source: null, parts: NOTHING, pair: null, contrast: null });
    });
  }
  find(element, ".ws-filter", HTMLElement).addEventListener("submit", (event) => {
    event.preventDefault();
    go({ where: filter.value.trim(), offset: 0 });
  });
  heat.addEventListener("input", () => {
    look.classList.toggle("wr-plain", !heat.checked);
    rankings.showHeat(heat.checked);
  });
  find(comparedWith, "button", HTMLElement).addEventListener("click", () => chooseCompared(null));
  find(opened, ".wr-back", HTMLElement).addEventListener("click", back);
  const [previous, following] = opened.querySelectorAll(".wr-steps button");
  previous.addEventListener("click", () => step(-1));
  following.addEventListener("click", () => step(1));

  /** @type {Record<string, (button: HTMLElement) => Promise<void>>} */
  const actions = {
    async link(button) {
      await navigator.clipboard?.writeText(location.href).catch(() => {});
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy link"), 1500);
    },
    page: () => download("page", asked(), "results.html"),
    pair: () => download("page", { ...asked(), photo: view.pair }, "pair.html"),
    async json() {
      const text = JSON.stringify({ query, asked: asked(), found: answer }, null, 1);
      save(new Blob([text], { type: "application/json" }), "results.json");
    },
    async compare() {
      const one = view.pair;
      go({ pair: null });
      chooseCompared(one);
    },
  };
  element.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("[data-do]") : null;
    if (!(button instanceof HTMLElement)) return;
    actions[button.dataset.do ?? ""](button).catch(failed);
  });
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target instanceof HTMLInputElement && event.target.type === "text";
    const key = event.key.toLowerCase();
    if (event.key === "Escape" && typing) filter.blur();
    else if (event.key === "Escape" && compared) chooseCompared(null);
    else if (event.key === "Escape" && !look.hidden && !isNothing(view.parts)) mark.clear();
    else if (event.key === "Escape") back();
    else if (typing) return;
    else if (key === "/") filter.focus();
    else if (key === "h" && !look.hidden) heat.click();
    else if ((key === "b" || key === "p") && !look.hidden) mark.use(key === "b" ? "box" : "paint");
    else if (
      view.pair &&
      event.target instanceof Element &&
      event.target.closest(".wr-nav") &&
      key === "arrowright"
    )
      step(1);
    else if (
      view.pair &&
      event.target instanceof Element &&
      event.target.closest(".wr-nav") &&
      key === "arrowleft"
    )
      step(-1);
    else return;
    event.preventDefault();
  });

  const follow = () => {
    if (location.hash === addressOf(view)) return;
    view = viewOf(location.hash);
    show().catch(failed);
  };
  history.scrollRestoration = "manual";
  window.addEventListener("popstate", follow);
  window.addEventListener("hashchange", follow);
  learn().catch(failed);
  show().catch(failed);
}

/** @param {HTMLElement} list */
function fillKeys(list) {
  for (const [key, what] of KEYS) {
    const row = document.createElement("div");
    const [term, words] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = key;
    words.textContent = what;
    row.append(term, words);
    list.append(row);
  }
}

/** @param {string} text */
const sentence = (text) =>
  (text.startsWith("where=") ? text : text.charAt(0).toUpperCase() + text.slice(1)) +
  (/[.!?…]$/.test(text) ? "" : ".");

startRoom(/** @type {HTMLElement} */ (document.querySelector("main")));
