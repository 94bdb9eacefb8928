"""The pages an audit is written to: text, JSON, Markdown, and the page of one rule."""
