// Figures: drawn when they come into view or the page is idle, again in another theme; picked rows are a signal of theirs.
class Panel {
  constructor(figure) {
    this.figure = figure;
    this.place = figure.querySelector(".chart");
    this.specs = [...figure.querySelectorAll("script.spec")];
    this.selects = [...figure.querySelectorAll("select")];
    this.section = figure.closest("section.suite");
    this.drawn = false;
    this.selects.forEach((select) => select.addEventListener("change", () => this.draw()));
    this.section.addEventListener("pickedchange", (event) => this.showPicked(event.detail));
    this.section.addEventListener("normchange", (event) => this.chooseNorm(event.detail));
    document.addEventListener("themechange", () => { if (this.drawn) this.draw(); });
  }

  get spec() {
    const chosen = Object.fromEntries(this.selects.map((select) => [select.name, select.value]));
    const fits = (script) => Object.entries(JSON.parse(script.dataset.options)).every(([key, value]) => (chosen[key] ?? value) === value);
    return this.specs.find(fits) ?? this.specs[0];
  }

  get picked() {
    return boards.get(this.section.dataset.suite)?.picked;
  }

  async draw() {
    this.drawn = true;
    const shown = theme();
    const spec = JSON.parse(this.spec.textContent);
    const option = {
      renderer: "svg",
      config: THEMES[shown].config,
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: this.figure.dataset.figure,
      tooltip: { theme: shown },
    };
    try {
      this.view?.finalize();
      const result = await vegaEmbed(this.place, spec, option);
      this.view = result.view;
      await this.showPicked(this.picked);
      this.figure.dataset.drawn = "";
    } catch (error) {
      this.place.textContent = `This figure could not be drawn: ${error.message}`;
      console.error(error);
    }
  }

  async showPicked(names) {
    if (!this.view || !names) return;
    const known = Object.keys(this.view.getState({ signals: (name) => name === "picked", data: () => false }).signals);
    if (known.length) await this.view.signal("picked", names).runAsync();
  }

  chooseNorm(norm) {
    if (!norm) return;
    for (const select of this.selects) {
      const of = [...select.options].find((option) => option.value === norm || option.value.endsWith(`_${norm}`));
      if (of && !select.value.endsWith(norm)) {
        const sameStem = select.value.replace(/(l2|linf)$/, norm);
        select.value = [...select.options].some((option) => option.value === sameStem) ? sameStem : of.value;
        if (this.drawn) this.draw();
      }
    }
  }
}

const panelOf = new Map([...document.querySelectorAll("figure[data-figure]")].map((figure) => [figure, new Panel(figure)]));
const inView = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    const panel = panelOf.get(target);
    if (isIntersecting && !panel.drawn) panel.draw();
  }
}, { rootMargin: "400px" });
panelOf.forEach((_, figure) => inView.observe(figure));

// So that a printed page has them all, too.
const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, 200));
async function drawNext() {
  const next = [...panelOf.values()].find((panel) => !panel.drawn && !panel.section.hidden);
  if (!next) return;
  await next.draw();
  whenIdle(drawNext);
}
addEventListener("load", () => whenIdle(drawNext));
document.addEventListener("suitechange", () => whenIdle(drawNext));
