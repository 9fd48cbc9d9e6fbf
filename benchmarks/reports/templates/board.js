// The leaderboards: sorting, filtering, picking, export. What the table shows is the state; nothing is kept beside it.
const NARROW = matchMedia("(max-width: 640px)");

function say(text) {
  document.getElementById("said").textContent = text;
}

class Board {
  constructor(section) {
    this.section = section;
    this.table = section.querySelector("table.board");
    this.body = this.table.tBodies[0];
    this.headers = [...this.table.tHead.rows[0].cells];
    this.rows = [...this.body.rows];
    this.form = section.querySelector("form.tools");
    this.picked = JSON.parse(section.dataset.picked);
    this.byName = new Intl.Collator("en", { numeric: true });
    this.headers.forEach((header, place) => {
      header.querySelector("button")?.addEventListener("click", () => this.sortBy(place));
    });
    this.form.addEventListener("input", () => this.filter());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.elements.grouped?.addEventListener("change", () => this.sort());
    this.form.elements.norm.addEventListener("change", () => this.tell("normchange", this.form.elements.norm.value));
    this.form.elements.csv.addEventListener("click", () => this.download());
    this.body.addEventListener("change", (event) => this.pick(event.target));
    if (NARROW.matches) this.fewColumns();
    this.showPicked();
    this.sort();
    this.filter();
  }

  get sorted() {
    return this.headers.findIndex((header) => header.hasAttribute("aria-sort"));
  }

  sortBy(place) {
    const header = this.headers[place];
    const before = header.getAttribute("aria-sort");
    const first = header.hasAttribute("data-up") ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    this.headers.forEach((one) => one.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", before === first ? other : first);
    this.sort();
    say(`sorted by ${header.textContent.trim()}, ${header.getAttribute("aria-sort")}`);
  }

  // The best group first, and by name within it; or by the mean. What was not measured comes last.
  sort() {
    const place = this.sorted;
    if (place < 0) return;
    const header = this.headers[place];
    const grouped = header.hasAttribute("data-grouped") && this.form.elements.grouped?.checked;
    const best = header.hasAttribute("data-up") ? "ascending" : "descending";
    const down = header.getAttribute("aria-sort") === "descending";
    const text = header.dataset.name === "method";
    const key = (row) => row.cells[place].dataset;
    const name = (row) => row.dataset.row;
    this.rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if ((x.v === undefined) !== (y.v === undefined)) return x.v === undefined ? 1 : -1;
      let order = 0;
      if (x.v !== undefined) {
        if (text) order = this.byName.compare(x.v, y.v) * (down ? -1 : 1);
        else if (grouped) order = (x.g - y.g) * (header.getAttribute("aria-sort") === best ? 1 : -1);
        else order = (Number(x.v) - Number(y.v)) * (down ? -1 : 1);
      }
      return order || this.byName.compare(name(a), name(b));
    });
    this.body.append(...this.rows);
    this.rows.forEach((row, i) => {
      const next = grouped && i > 0 && key(row).g !== key(this.rows[i - 1]).g;
      row.classList.toggle("next-group", Boolean(next));
      const rank = row.querySelector("td.rank");
      const { r, l } = key(row);
      rank.textContent = r ?? "";
      if (l) {
        const letters = document.createElement("b");
        letters.textContent = l;
        rank.append(" ", letters);
      }
    });
  }

  filter() {
    const { search, family, norm, only } = this.form.elements;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of this.rows) {
      const text = row.dataset.find.toLowerCase();
      const fits = words.every((word) => text.includes(word))
        && (!family.value || row.dataset.family === family.value)
        && (!only.checked || this.picked.includes(row.dataset.row));
      row.hidden = !fits;
      shown += fits;
    }
    const columns = new Set([...this.form.querySelectorAll("[name=column]:checked")].map((box) => box.value));
    this.headers.forEach((header, place) => {
      const { name, norm: of } = header.dataset;
      const measured = header.classList.contains("number") && name !== "n";
      const hidden = measured && (!columns.has(name) || Boolean(norm.value && of && of !== norm.value));
      if (header.hidden === hidden) return;
      header.hidden = hidden;
      this.rows.forEach((row) => { row.cells[place].hidden = hidden; });
    });
    this.form.querySelector(".count").textContent = `${shown} of ${this.rows.length} row${this.rows.length === 1 ? "" : "s"}`;
  }

  // A telephone shows the accuracy and what the table is sorted by; the menu has the others.
  fewColumns() {
    const kept = ["clean_accuracy", this.headers[this.sorted]?.dataset.name];
    for (const box of this.form.querySelectorAll("[name=column]")) box.checked = kept.includes(box.value);
  }

  pick(box) {
    const { row } = box.closest("tr").dataset;
    this.picked = this.picked.filter((name) => name !== row);
    if (box.checked) this.picked.push(row);
    this.showPicked();
    if (this.form.elements.only.checked) this.filter();
    this.tell("pickedchange", this.picked);
  }

  // The colours are those of the figures, which go by the order of picking.
  showPicked() {
    for (const row of this.rows) {
      const place = this.picked.indexOf(row.dataset.row);
      row.cells[0].firstElementChild.checked = place >= 0;
      row.classList.toggle("picked", place >= 0);
      row.style.setProperty("--mine", place >= 0 ? `var(--c${place % 10})` : "transparent");
    }
  }

  tell(what, detail) {
    this.section.dispatchEvent(new CustomEvent(what, { detail }));
  }

  // What is shown, as numbers: means with the ends of their intervals, and letters.
  csv() {
    const places = this.headers.map((header, i) => i).filter((i) => this.headers[i].dataset.name && !this.headers[i].hidden);
    const shown = this.rows.filter((row) => !row.hidden);
    const ofColumn = (i) => {
      const { name } = this.headers[i].dataset;
      const cells = shown.map((row) => row.cells[i]);
      if (name === "doubts") return [[name, ...cells.map((cell) => cell.querySelector("button")?.dataset.names ?? "")]];
      const columns = [[name, ...cells.map((cell) => cell.dataset.v ?? "")]];
      for (const end of ["low", "high"]) {
        if (cells.some((cell) => end in cell.dataset)) columns.push([`${name}_${end}`, ...cells.map((cell) => cell.dataset[end] ?? "")]);
      }
      for (const [key, end] of [["r", "rank"], ["l", "letters"], ["g", "group"]]) {
        if (cells.some((cell) => key in cell.dataset)) columns.push([`${name}_${end}`, ...cells.map((cell) => cell.dataset[key] ?? "")]);
      }
      return columns;
    };
    const columns = places.flatMap(ofColumn);
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return columns[0].map((_, line) => columns.map((column) => quoted(column[line])).join(",")).join("\n") + "\n";
  }

  download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv" }));
    link.download = `${this.section.getAttribute("aria-label")}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
    say("exported");
  }
}

const boards = new Map();
for (const section of document.querySelectorAll("section.suite")) {
  if (section.querySelector("table.board")) boards.set(section.dataset.suite, new Board(section));
}
