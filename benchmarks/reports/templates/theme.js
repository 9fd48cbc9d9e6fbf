"use strict";
// Light, dark, or as the system is. `theme()` is the one that is shown; "themechange" tells of another one.
const THEMES = JSON.parse(document.getElementById("themes").textContent);
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

function remembered(key, value) {
  try {  // frames without an origin, and strict browsers, have no storage
    if (value === undefined) return localStorage.getItem(key);
    localStorage.setItem(key, value);
  } catch (error) { /* then the choice lasts as long as the page */ }
  return null;
}

const chosenTheme = { name: remembered("marginbench-theme") || "auto" };

function theme() {
  return chosenTheme.name === "auto" ? (systemDark.matches ? "dark" : "light") : chosenTheme.name;
}

function showTheme() {
  document.documentElement.dataset.theme = theme();
  document.getElementById("theme").value = chosenTheme.name;
  document.dispatchEvent(new CustomEvent("themechange"));
}

document.getElementById("theme").addEventListener("change", (event) => {
  chosenTheme.name = event.target.value;
  remembered("marginbench-theme", chosenTheme.name);
  showTheme();
});
systemDark.addEventListener("change", showTheme);
showTheme();
