// Explanations beside what has `data-tip`, on hover and by keyboard focus. Escape hides them.
const tip = document.getElementById("tip");

function showTip(of) {
  tip.textContent = of.dataset.tip;
  tip.hidden = false;
  const at = of.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left), innerWidth - tip.offsetWidth - 8);
  const below = at.bottom + 6;
  const top = below + tip.offsetHeight > innerHeight ? at.top - tip.offsetHeight - 6 : below;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, top)}px`;
  (of.closest("dialog") || document.body).append(tip);  // above an open dialog, too
}

function hideTip() {
  tip.hidden = true;
}

for (const [show, hide] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  document.addEventListener(show, (event) => {
    const of = event.target.closest("[data-tip]");
    if (of) showTip(of); else hideTip();
  });
  document.addEventListener(hide, (event) => { if (event.target.closest("[data-tip]")) hideTip(); });
}
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
document.addEventListener("scroll", () => {  // as focus does, which brings what it is on into view
  const of = document.activeElement?.closest("[data-tip]");
  if (of && !tip.hidden) showTip(of); else hideTip();
}, true);
