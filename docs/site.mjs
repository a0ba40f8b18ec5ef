// A plugin of MyST: where GitHub reads <picture>, the site gets the figures for both themes, and site.css shows one.
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";

const kinds = { "": "for-light", "-dark": "for-dark" };
const phones = { "": "for-light for-wide", "-dark": "for-dark for-wide" };
for (const [dark, kind] of Object.entries(kinds)) phones[`_phone${dark}`] = `${kind} for-phone`;

function variants(node, folder) {
  const image = node.type === "paragraph" && node.children.length === 1 ? node.children[0] : {};
  const stem = image.type === "image" ? join(folder, image.url).replace(/\.png$/, "") : "";
  if (!existsSync(`${stem}-dark.png`)) return [node];
  const found = Object.entries(existsSync(`${stem}_phone.png`) ? phones : kinds);
  return found.map(([end, kind]) => {
    const shown = { ...image, url: image.url.replace(/\.png$/, `${end}.png`) };
    return { type: "div", class: kind, children: [shown] };
  });
}

function dropTitle(node) {
  // A notebook's: MyST puts it above the badge, and leaves it below as well.
  const isTitle = (child) => child.type === "heading" && child.depth === 1;
  node.children = node.children?.filter((child) => !isTitle(child));
  node.children?.forEach((child) => child.type === "block" && dropTitle(child));
}

function replace(node, folder) {
  if (!node.children) return;
  node.children = node.children.filter((child) => child.type !== "comment"); // which the search would find
  node.children.forEach((child) => replace(child, folder));
  node.children = node.children.flatMap((child) => variants(child, folder));
}

export default {
  name: "Figures for both themes, one title",
  transforms: [
    { name: "both-themes", stage: "document", plugin: () => (tree, file) => replace(tree, dirname(file.path)) },
    { name: "one-title", stage: "document", plugin: () => (tree) => dropTitle(tree) },
  ],
};
