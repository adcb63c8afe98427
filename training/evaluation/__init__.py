"""What a model can do, measured as FetalCLIP and MobileFetalCLIP measure it."""
