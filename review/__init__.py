"""What people look at: results as tables and files, reports, exports."""
