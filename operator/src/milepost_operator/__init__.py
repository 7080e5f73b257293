"""Control plane of Milepost: what runs in the operator and api processes."""
