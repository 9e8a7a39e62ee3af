"""Examples made by a teacher: any model behind an OpenAI-compatible endpoint. What it says is data, never run."""
