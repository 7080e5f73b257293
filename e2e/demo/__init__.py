"""The demo: Milepost on a real cluster, seen through kubectl."""
