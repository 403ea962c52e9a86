"""How closely readings of one quantity agree: over raters, methods, scanners and repeated scans."""
