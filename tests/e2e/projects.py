"""Small projects that tests write into a temporary folder."""

import json

STREAM = """\
name: orders
partitions: 2
key: customer
event_id: {event_id}
event_time: ordered_at
on_error: {on_error}
fields:
  - {{name: order_id, type: text, required: true}}
  - {{name: customer, type: text, required: true}}
  - {{name: amount, type: "decimal(18,2)", required: true, range: {{min: 0}}}}
  - {{name: status, type: text, accepted_values: [open, paid]}}
  - {{name: ordered_at, type: timestamp, required: true}}
rules:
  paid_is_positive: "status <> 'paid' OR amount > 0"
"""

SEED = "customer,country\nann,NL\nbob,PE\n"

SILVER = """\
SELECT order_id, customer, amount, status, ordered_at
FROM {{ source('bronze', 'orders') }}
"""

GOLD = """\
SELECT o.customer, c.country, count(*) AS orders, sum(o.amount) AS amount
FROM {{ ref('order_lines') }} AS o
LEFT JOIN {{ ref('customers') }} AS c ON c.customer = o.customer
GROUP BY o.customer, c.country
"""


def stream(on_error="quarantine", event_id="order_id", topic=None):
    """The contract of the stream `orders`."""
    text = STREAM.format(on_error=on_error, event_id=event_id)
    return text + (f"topic: {json.dumps(topic)}\n" if topic else "")


def files(**contract):
    """A small project that is in order, as {path: text}; see `stream`."""
    return {
        "sluice.yml": "name: small\nversion: 1\n",
        "streams/orders.yml": stream(**contract),
        "models/silver/order_lines.sql": SILVER,
        "models/gold/orders_by_customer.sql": GOLD,
        "seeds/customers.csv": SEED,
    }


def write(folder, texts):
    """Writes `texts` into `folder`; a text of None leaves the file out."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        if text is not None:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return folder


def order(number, **changes):
    """A valid order; a change to `...` leaves the field out."""
    event = {
        "order_id": str(number),
        "customer": "ann",
        "amount": "12.50",
        "status": "open",
        "ordered_at": "2026-03-02T18:00:00Z",
    }
    event.update(changes)
    return {name: value for name, value in event.items() if value is not ...}
