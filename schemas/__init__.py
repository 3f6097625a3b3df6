"""The wire contract of Vitalcast: signals, records, codec, recordings. No Faust, no torch."""
