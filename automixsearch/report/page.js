"use strict";
// The page reads well without this: it adds the theme button, tips, the place in the contents and the table of trials.
(() => {
  const $ = (id) => document.getElementById(id);

  // Light or dark, remembered where the browser allows it (pages opened from a file may not be).
  const root = document.documentElement;
  const remembered = (value) => { try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; } };
  if (remembered()) root.dataset.theme = remembered();
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remembered(root.dataset.theme);
  });

  // Tips.
  const tip = $("tip");
  const show = (event) => {
    const found = event.target.closest && event.target.closest("[data-tip]");
    tip.hidden = !found;
    if (!found) return;
    tip.textContent = found.dataset.tip;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 4)) + "px";
    tip.style.top = (event.clientY + 16 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 16) + "px";
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);

  // Where the reader is.
  const links = new Map([...document.querySelectorAll("nav li a")].map((a) => [a.hash.slice(1), a]));
  if ("IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        links.forEach((a) => a.classList.remove("at"));
        links.get(entry.target.id)?.classList.add("at");
      }
    }, { rootMargin: "-10% 0px -80% 0px" });
    document.querySelectorAll("main > section").forEach((section) => seen.observe(section));
  }

  // The table of trials: columns of values, listed words as codes; a page of rows is drawn at a time.
  const payload = JSON.parse($("payload").textContent);
  if (!payload.columns) return;
  const PAGE = 25, all = payload.columns, columns = all.filter((c) => !c.hidden), count = payload.count;
  for (const column of all) {
    column.at = column.words
      ? (row) => (column.values[row] < 0 ? null : column.words[column.values[row]])
      : (row) => column.values[row];
  }
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const digits = (column, value) => (value === null || value === undefined ? "" : column.digits === undefined || typeof value !== "number" ? String(value) : value.toFixed(column.digits));
  const searched = Array.from({ length: count }, (_, row) => all.filter((c) => c.kind !== "number").map((c) => c.at(row) ?? "").join("\n").toLowerCase());
  let order = { column: columns.findIndex((c) => c.sorted), down: true }, page = 0, rows = [];
  if (order.column < 0) order = { column: 0, down: false };
  else order.down = columns[order.column].sorted === "down";

  const selects = all.filter((c) => c.filter && c.words.length > 1).map((column) => {
    const label = make("label", column.label), select = make("select");
    select.id = "filter-" + column.name;
    select.append(new Option("all", ""), ...column.words.map((word) => new Option(word, word)));
    select.addEventListener("change", update);
    label.append(select);
    $("filter-selects").append(label);
    return { column, select };
  });
  const numbers = columns.filter((c) => c.kind === "number");
  $("filter-column").append(...numbers.map((c) => new Option(c.label, c.name)));
  const preferred = numbers.find((c) => c.sorted);
  if (preferred) $("filter-column").value = preferred.name;
  for (const id of ["filter-text", "filter-low", "filter-high"]) $(id).addEventListener("input", update);
  $("filter-column").addEventListener("change", update);
  $("filter-clear").addEventListener("click", () => {
    for (const id of ["filter-text", "filter-low", "filter-high"]) $(id).value = "";
    for (const { select } of selects) select.value = "";
    update();
  });

  const heads = columns.map((column, position) => {
    const head = make("th", undefined, column.kind === "number" ? "number" : ""), button = make("button", column.label);
    head.scope = "col";
    button.type = "button";
    if (column.note) button.title = column.note;
    button.addEventListener("click", () => {
      order = { column: position, down: order.column === position ? !order.down : column.kind === "number" };
      update();
    });
    head.append(button);
    return head;
  });
  $("trial-head").append(...heads);
  if (payload.curves) $("trial-head").append(make("th", payload.curve_label + " by epoch", "curve"));

  function update() {
    const words = $("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const ranged = numbers.find((c) => c.name === $("filter-column").value);
    const low = $("filter-low").value === "" ? null : Number($("filter-low").value);
    const high = $("filter-high").value === "" ? null : Number($("filter-high").value);
    rows = [];
    for (let row = 0; row < count; row++) {
      if (!words.every((word) => searched[row].includes(word))) continue;
      if (!selects.every(({ column, select }) => !select.value || column.at(row) === select.value)) continue;
      if (low !== null || high !== null) {
        const value = ranged.at(row);
        if (value === null || (low !== null && value < low) || (high !== null && value > high)) continue;
      }
      rows.push(row);
    }
    const by = columns[order.column], sign = order.down ? -1 : 1;
    rows.sort((a, b) => {
      const x = by.at(a), y = by.at(b);
      if (x === null || y === null) return (x === null) - (y === null) || a - b;  // nothing comes last, either way
      return (x < y ? -sign : x > y ? sign : 0) || a - b;
    });
    heads.forEach((head, position) => {
      if (position === order.column) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    page = 0;
    draw();
  }

  function spark(values) {
    const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg"), path = document.createElementNS(ns, "path");
    const [low, high] = payload.curve_range, span = high - low || 1;
    svg.setAttribute("viewBox", "0 0 84 18");
    svg.setAttribute("class", "spark");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "from " + values[0] + " to " + values[values.length - 1]);
    svg.dataset.tip = values.join(" → ");
    const step = values.length > 1 ? 80 / (payload.curve_points - 1) : 0;
    path.setAttribute("d", "M" + values.map((v, i) => (2 + i * step).toFixed(1) + "," + (16 - 14 * (v - low) / span).toFixed(1)).join("L") + (values.length === 1 ? "h2" : ""));
    svg.append(path);
    return svg;
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    const body = $("trial-rows");
    body.replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
      const line = make("tr");
      columns.forEach((column, position) => {
        const cell = make(position ? "td" : "th", undefined, column.kind === "number" ? "number" : column.long ? "error" : "");
        cell.textContent = digits(column, column.at(row));
        line.append(cell);
      });
      if (payload.curves) {
        const cell = make("td", undefined, "curve");
        if (payload.curves[row]?.length) cell.append(spark(payload.curves[row]));
        line.append(cell);
      }
      return line;
    }));
    $("trial-count").textContent = rows.length === count ? `${count} trials` : `${rows.length} of ${count} trials`;
    $("page-at").textContent = `page ${page + 1} of ${pages}`;
    $("page-first").disabled = $("page-back").disabled = page === 0;
    $("page-next").disabled = $("page-last").disabled = page >= pages - 1;
  }
  const go = (to) => () => {
    page = Math.min(Math.max(0, to()), Math.max(0, Math.ceil(rows.length / PAGE) - 1));
    draw();
  };
  $("page-first").addEventListener("click", go(() => 0));
  $("page-back").addEventListener("click", go(() => page - 1));
  $("page-next").addEventListener("click", go(() => page + 1));
  $("page-last").addEventListener("click", go(() => Infinity));
  $("trial-csv").addEventListener("click", () => {
    const quoted = (value) => (value === null ? "" : /[",\n]/.test(value) ? '"' + String(value).replaceAll('"', '""') + '"' : value);
    const lines = [all.map((c) => quoted(c.name)), ...rows.map((row) => all.map((c) => quoted(c.at(row))))];
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([lines.map((line) => line.join(",")).join("\n") + "\n"], { type: "text/csv" }));
    link.download = "trials-selected.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  update();
})();
