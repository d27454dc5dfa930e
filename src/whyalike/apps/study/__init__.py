"""Asking people: two robots explain the same, and raters say whose answer is more reasonable.

Sections VI-B and VII-B of Zhu, Yang, Chen, IEEE TIP 2021: `build` makes a questionnaire, `server`
asks it, `answers` reads what came back, `report` sums it up.
"""
