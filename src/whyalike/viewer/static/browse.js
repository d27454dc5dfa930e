// @ts-check
/** The gallery page by page, to choose a query from. */

import { find, write } from "./viewer.js";
import { counted } from "./results.js";
import { withPicture } from "./ranking.js";

/** @typedef {import("./ranking.js").Listed} Listed */
/** @typedef {{ total: number, offset: number, photos: Listed[] }} Page */

export const PAGE = 60;

const MARKUP = `
  <div class="bs-bar">
    <p class="bs-count" aria-live="polite"></p>
    <nav class="bs-pages" aria-label="Pages">
      <button type="button" aria-label="Previous page">‹</button>
      <span></span>
      <button type="button" aria-label="Next page">›</button>
    </nav>
  </div>
  <ul class="bs-grid"></ul>
  <p class="bs-none" hidden></p>`;

const PHOTO = `
  <li>
    <button type="button" class="bs-photo">
      <span class="bs-picture"><img alt="" loading="lazy" draggable="false"></span>
      <span class="bs-name"></span>
      <span class="bs-label"></span>
    </button>
  </li>`;

/**
 * @param {HTMLElement} element
 * @param {{ choose: (id: string) => void, turn: (offset: number) => void }} to
 */
export function mountBrowse(element, to) {
  element.innerHTML = MARKUP;
  const grid = find(element, ".bs-grid", HTMLElement);
  const count = find(element, ".bs-count", HTMLElement);
  const none = find(element, ".bs-none", HTMLElement);
  const pages = find(element, ".bs-pages", HTMLElement);
  const [previous, next] = pages.querySelectorAll("button");
  let offset = 0;
  previous.addEventListener("click", () => to.turn(Math.max(0, offset - PAGE)));
  next.addEventListener("click", () => to.turn(offset + PAGE));
  grid.addEventListener("click", (event) => {
    const chosen = event.target instanceof Element ? event.target.closest("button") : null;
    if (chosen?.dataset.id) to.choose(chosen.dataset.id);
  });
  grid.addEventListener("keydown", (event) => {
    const all = [...grid.querySelectorAll("button")];
    const at = all.findIndex((one) => one === document.activeElement);
    const across = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    /** @type {Record<string, number>} */
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
    const step = steps[event.key];
    if (at < 0 || !step || !all[at + step]) return;
    all[at + step].focus();
    event.preventDefault();
  });

  return {
    /** @param {Page} page @param {string} where */
    show(page, where) {
      offset = page.offset;
      const last = Math.min(page.total, page.offset + page.photos.length);
      write(
        count,
        `${counted(page.total, "photograph", "photographs")}${where && ` where ${where}`}`,
      );
      write(
        find(pages, "span", HTMLElement),
        `${(page.offset + 1).toLocaleString("en")}–${last.toLocaleString("en")}`,
      );
      pages.hidden = page.total <= PAGE && !page.offset;
      previous.disabled = !page.offset;
      next.disabled = last >= page.total;
      none.hidden = page.photos.length > 0;
      write(
        none,
        where ? "No photograph meets the condition." : "There is no photograph on this page.",
      );
      grid.replaceChildren(...page.photos.map(photoOf));
    },
    focus: () => grid.querySelector("button")?.focus(),
  };
}

/** @param {Listed} listed */
function photoOf(listed) {
  const holder = document.createElement("ul");
  holder.innerHTML = PHOTO;
  const item = /** @type {HTMLElement} */ (holder.firstElementChild);
  const button = find(item, "button", HTMLButtonElement);
  const photo = withPicture(listed, 240);
  button.dataset.id = photo.id;
  button.title = photo.path;
  const image = find(item, "img", HTMLImageElement);
  if (photo.src) image.src = photo.src;
  const gone = () => item.classList.add("ws-missing");
  if (photo.missing) gone();
  image.addEventListener("error", gone);
  write(find(item, ".bs-name", HTMLElement), photo.name);
  const label = photo.fields.find(([name]) => name === "label");
  write(find(item, ".bs-label", HTMLElement), label ? label[1] : "");
  return item;
}
