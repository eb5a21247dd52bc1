"""A line plot as SVG, without a library: curves over a linear or logarithmic x, with ticks and a
legend.
"""

import html
import math

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 52  # margins
COLORS = ("#1f6fb4", "#d1495b", "#2e8b57", "#8a5fb0", "#e08e0b", "#4d4d4d", "#17a2b8", "#a0522d")


def round_ticks(low, high, count=6):
    """About count round numbers between low and high."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda candidate: abs(candidate - raw))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_plot(title, x_name, y_name, curves, marks=()):
    """The text of an SVG file.

    curves  list of (name, [(x, y), …])
    marks   list of (name, y): published figures, as dashed lines
    """
    points = [point for _, curve in curves for point in curve]
    x_low, x_high = 0, max(x for x, _ in points) or 1
    # The first loss of a run would press all others together: the top is where the slowest run is
    # after a tenth.
    late = [y for x, y in points if x >= 0.1 * x_high] or [y for _, y in points]
    y_values = late + [y for _, y in marks]
    y_low, y_high = min(y_values), max(y_values)
    margin = 0.05 * (y_high - y_low) or 0.05
    y_low, y_high = y_low - margin, y_high + margin

    def place(x, y):
        return (
            LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{html.escape(title)}</text>',
        f'<clipPath id="area"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
    ]
    for y in round_ticks(y_low, y_high):
        _, at = place(x_low, y)
        out.append(
            f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:.10g}</text>'
        )
    for x in round_ticks(x_low, x_high):
        at, _ = place(x, y_low)
        out.append(
            f'<path d="M{at:.1f} {HEIGHT - BOTTOM}v5" stroke="#222"/>'
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{x:.10g}</text>'
        )
    out.append(
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="#222" fill="none"/>'
    )
    out.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{html.escape(x_name)}</text>"
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        f"{html.escape(y_name)}</text>"
    )
    legend = []
    for i, (name, curve) in enumerate(curves):
        color = COLORS[i % len(COLORS)]
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in curve)
        out.append(
            f'<path d="M{path}" stroke="{color}" stroke-width="1.8" fill="none" '
            'clip-path="url(#area)"/>'
        )
        legend.append((name, color, ""))
    for i, (name, y) in enumerate(marks):
        color = COLORS[(len(curves) + i) % len(COLORS)]
        _, at = place(x_low, y)
        out.append(
            f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="{color}" stroke-dasharray="5 4"/>'
        )
        legend.append((name, color, ' stroke-dasharray="5 4"'))
    for i, (name, color, dashes) in enumerate(legend):
        y = TOP + 16 + 17 * i
        x = WIDTH - RIGHT - 290
        out.append(
            f'<path d="M{x} {y - 4}h24" stroke="{color}" stroke-width="1.8"{dashes}/>'
            f'<text x="{x + 30}" y="{y}">{html.escape(name)}</text>'
        )
    return "\n".join(out) + "\n</svg>\n"
