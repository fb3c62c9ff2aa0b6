"""Draws what the dashboard's queries returned, panel by panel, where the dashboard has them.

Not Grafana, but Grafana's queries, titles, units and places, over data of a gateway under load."""

import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

DASHBOARD = Path(__file__).resolve().parents[2] / "conf/grafana/tollgate.json"
COLUMNS, UNIT_INCH, WIDTH_INCH = 24, 0.27, 15
PAPER, PANEL, INK, FAINT = "#f4f5f5", "#ffffff", "#24292e", "#8b9096"


def draw_panels(shown, file):
    everything = json.loads(DASHBOARD.read_text())["panels"]
    units = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in everything)
    plt.rcParams.update({"font.size": 7, "text.color": INK, "axes.edgecolor": "#d8d9da"})
    figure = plt.figure(figsize=(WIDTH_INCH, units * UNIT_INCH), facecolor=PAPER)
    begun = min(at for _, series in shown for _, _, values in series for at, _ in values)
    for panel in everything:
        if panel["type"] == "row":
            y = 1 - (panel["gridPos"]["y"] + 0.75) / units
            figure.text(0.008, y, panel["title"], fontsize=10, fontweight="bold")
    for panel, series in shown:
        axes = figure.add_axes(place(panel["gridPos"], units), facecolor=PANEL)
        axes.set_title(panel["title"], loc="left", fontsize=8, fontweight="bold")
        kind = {"stat": stat, "state-timeline": timeline}.get(panel["type"], lines)
        kind(axes, panel, series, begun)
    figure.savefig(file, dpi=90)


def place(grid, units):
    """Left, bottom, width and height of the axes, with room for a title and a legend."""
    small = grid["h"] <= 4
    left, right = grid["x"] / COLUMNS + (0.006 if small else 0.036), (grid["x"] + grid["w"]) / COLUMNS - 0.008
    top, bottom = grid["y"] + 0.9, grid["y"] + grid["h"] - (0.3 if small else 2.0)
    return [left, 1 - bottom / units, right - left, (bottom - top) / units]


def format_of(unit):
    def seconds(value, _=None):
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
            if abs(value) * factor >= 1:
                return f"{value * factor:.3g} {name}"
        return "0 s"

    def number(value, _=None):
        for factor, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}"
        return f"{value:.3g}"

    return {
        "s": seconds,
        "percentunit": lambda value, _=None: f"{value * 100:.3g} %",
        "currencyUSD": lambda value, _=None: f"${value:.4g}",
        "bytes": lambda value, _=None: number(value) + "B",
        "reqps": lambda value, _=None: number(value) + "/s",
    }.get(unit, number)


def name_of(legend, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip() or "(none)"


def defaults_of(panel):
    return panel["fieldConfig"]["defaults"]


def stat(axes, panel, series, _):
    axes.set_xticks([])
    axes.set_yticks([])
    legend, labels, values = series[0]
    text = format_of(defaults_of(panel)["unit"])(values[-1][1])
    for mapping in defaults_of(panel).get("mappings", []):
        text = mapping["options"].get(f"{values[-1][1]:g}", {}).get("text", text)
    if panel["options"]["textMode"] == "name":
        text = name_of(legend, labels)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=17, transform=axes.transAxes)


def timeline(axes, panel, series, begun):
    for row, (legend, labels, values) in enumerate(sorted(series, key=lambda one: str(one[1]))):
        for at, value in values:
            axes.barh(row, 1, left=at - begun, height=0.7, color="#56a64b" if value else "#e02f44")
    names = [name_of(legend, labels) for legend, labels, _ in sorted(series, key=lambda one: str(one[1]))]
    for row, name in enumerate(names):
        axes.text(0.3, row, name, va="center", color="white", fontsize=7)
    axes.set_yticks([])
    axes.tick_params(colors=FAINT, length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:.0f} s"))


def lines(axes, panel, series, begun):
    series = sorted(series, key=lambda one: name_of(one[0], one[1]))
    names = [name_of(legend, labels) for legend, labels, _ in series]
    if defaults_of(panel)["custom"]["stacking"]["mode"] == "normal":
        times = sorted({at for _, _, values in series for at, _ in values})
        rows = [[dict(values).get(at, 0) for at in times] for _, _, values in series]
        axes.stackplot([at - begun for at in times], rows, labels=names, alpha=0.75)
    else:
        for name, (_, _, values) in zip(names, series):
            axes.plot([at - begun for at, _ in values], [value for _, value in values], label=name, linewidth=1.2)
        if "scaleDistribution" in defaults_of(panel)["custom"]:
            axes.set_yscale("log")
        elif "min" in defaults_of(panel) or defaults_of(panel)["unit"] == "s":
            axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#ececed", linewidth=0.6)
    axes.tick_params(colors=FAINT, length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(format_of(defaults_of(panel)["unit"])))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:.0f} s"))
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=3, frameon=False, fontsize=6, handlelength=1)
