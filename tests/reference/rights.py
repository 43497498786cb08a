# ruff: noqa: RUF001 - letters of many languages look like others
"""Sentences of the Universal Declaration of Human Rights, which is in the public domain, by their languages."""

RIGHTS = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "cs": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "hu": "Minden emberi lény szabadon születik és egyenlő méltósága és joga van.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由,在尊严和权利上一律平等。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
}
"""The first sentence of article 1."""
PERSON = {
    "en": "Everyone has the right to life, liberty and security of person.",
    "de": "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.",
    "fr": "Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne.",
    "es": "Todo individuo tiene derecho a la vida, a la libertad y a la seguridad de su persona.",
    "it": "Ogni individuo ha diritto alla vita, alla libertà ed alla sicurezza della propria persona.",
    "pt": "Todo o indivíduo tem direito à vida, à liberdade e à segurança pessoal.",
    "nl": "Een ieder heeft het recht op leven, vrijheid en onschendbaarheid van zijn persoon.",
    "sv": "Var och en har rätt till liv, frihet och personlig säkerhet.",
    "pl": "Każdy człowiek ma prawo do życia, wolności i bezpieczeństwa swojej osoby.",
    "cs": "Každý má právo na život, svobodu a osobní bezpečnost.",
    "fi": "Kullakin yksilöllä on oikeus elämään, vapauteen ja henkilökohtaiseen turvallisuuteen.",
    "hu": "Minden személynek joga van az élethez, a szabadsághoz és a személyi biztonsághoz.",
    "tr": "Yaşamak, hürriyet ve kişi emniyeti her ferdin hakkıdır.",
    "ru": "Каждый человек имеет право на жизнь, на свободу и на личную неприкосновенность.",
    "el": "Κάθε άτομο έχει δικαίωμα στη ζωή, την ελευθερία και την προσωπική του ασφάλεια.",
    "he": "כל אדם יש לו הזכות לחיים, לחירות ולבטחון אישי.",
    "ar": "لكل فرد الحق في الحياة والحرية وسلامة شخصه.",
    "hi": "प्रत्येक व्यक्ति को जीवन, स्वाधीनता और वैयक्तिक सुरक्षा का अधिकार है।",
    "th": "คนทุกคนมีสิทธิในการดำรงชีวิต เสรีภาพ และความมั่นคงแห่งตัวตน",
    "ja": "すべての人は、生命、自由及び身体の安全に対する権利を有する。",
    "zh": "人人有权享有生命、自由和人身安全。",
    "ko": "모든 사람은 생명과 신체의 자유와 안전에 대한 권리를 가진다.",
}
"""Article 3."""
SPIRIT = {
    "en": "They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
    "de": "Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "fr": "Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de"
    " fraternité.",
    "es": "Dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
    "it": "Essi sono dotati di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di"
    " fratellanza.",
    "pt": "Dotados de razão e de consciência, devem agir uns para com os outros em espírito de fraternidade.",
    "nl": "Zij zijn begiftigd met verstand en geweten, en behoren zich jegens elkander in een geest van broederschap te"
    " gedragen.",
    "sv": "De är utrustade med förnuft och samvete och bör handla gentemot varandra i en anda av broderskap.",
    "pl": "Są oni obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "ru": "Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
}
"""The second sentence of article 1."""
LABELLED = [(code, text) for texts in (RIGHTS, PERSON, SPIRIT) for code, text in texts.items()]
"""All of them, each with its language."""
