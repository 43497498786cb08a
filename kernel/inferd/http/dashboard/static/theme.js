// Light and dark: as the system says, or as was chosen here.

import { byId } from "./dom.js";

const NAME = "inferd-theme";

/** Have a choice take effect, and call back when colours change. */
export function startTheme(changed) {
  const choice = byId("theme");
  const apply = () => {
    const chosen = choice.value;
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    changed();
  };
  choice.value = localStorage.getItem(NAME) || "auto";
  choice.addEventListener("change", () => {
    localStorage.setItem(NAME, choice.value);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}
